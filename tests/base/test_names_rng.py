"""Names of code, and random streams that never move one another."""

import pytest

from underhood.base.errors import UnknownName, UserError, nearest
from underhood.base.names import load, name_of
from underhood.base.rng import stream, stream_seed


def test_load_is_the_inverse_of_name_of() -> None:
    assert load(name_of(stream_seed)) is stream_seed
    with pytest.raises(UnknownName, match="stream_seed"):
        load("underhood.base.rng:stream_sed")
    with pytest.raises(UserError, match="no module"):
        load("underhood.bass:x")
    with pytest.raises(UserError, match="names no object"):
        load("underhood.base")


def test_streams_are_keyed_by_seed_and_purpose() -> None:
    seeds = {stream_seed(s, p) for s in range(50) for p in ("init/a", "init/b", "data")}
    assert len(seeds) == 150
    assert all(0 <= s < 2**63 for s in seeds)
    assert stream(1, "data").random() == stream(1, "data").random()
    assert stream_seed(0, "data") == 454179170045371426  # the value is part of every record: it must never change


def test_nearest() -> None:
    assert nearest("atention", ["attention", "bpe"]) == "attention"
    assert nearest("RMSNrm", ["rms", "RMSNorm"]) == "RMSNorm"
    assert nearest("zzz", ["attention"]) is None
