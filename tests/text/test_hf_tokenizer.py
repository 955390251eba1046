"""Tokenizers of published models against the ``tokenizers`` library: same ids, same text, and files that go both ways."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underhood.base.errors import TokenizerError, UnknownName
from underhood.infer.stream import TextStream
from underhood.text.alphabet import well_formed
from underhood.text.bpe_fast import FastBPE
from underhood.text.hf_tokenizer import HFTokenizer
from underhood.text.tokenizer import Tokenizer, encode_plain, load_tokenizer

from .families import FAMILIES, LOSSY, PIECE_FAMILIES, document
from .texts import AWKWARD, OLD, TEXTS, random_text

tokenizers = pytest.importorskip("tokenizers")
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ours(family: str) -> HFTokenizer:
    return HFTokenizer(json.loads(document(family)))


@pytest.fixture(scope="module")
def theirs(family: str) -> Any:
    return tokenizers.Tokenizer.from_str(document(family))


def texts_for(tokenizer: HFTokenizer) -> st.SearchStrategy[str]:
    """Any characters of old, awkward ones, added tokens whole and in part, words of the corpus."""
    names = [*tokenizer.added, *(name[: len(name) // 2] for name in tokenizer.added)]
    parts = [st.sampled_from(AWKWARD), st.sampled_from(OLD), st.sampled_from([*names, " ", "  ", "▁", "mill", "miller", "the ", "<0x41>", "12", "aaaa"])]
    return st.lists(st.one_of(*parts), max_size=30).map("".join)


def assert_alike(ours: HFTokenizer, theirs: Any, text: str) -> None:
    theirs.encode_special_tokens = False
    ids = ours.encode(text, ours.special)
    assert theirs.encode(text, add_special_tokens=False).ids == ids
    assert theirs.encode(text).ids == ours.encode(text, ours.special, add_special_tokens=True)
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)
    theirs.encode_special_tokens = True
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def test_texts(ours: HFTokenizer, theirs: Any) -> None:
    rng = random.Random(12)
    names = " ".join(ours.added) + "".join(ours.added)
    long = ["", " ", "   ", "a" * 700, " " * 700 + "x", "the mill " * 200, "👍" * 300, "é\u0323\u0301" * 200, "日本語" * 200, names, "unreachable unreachable qqq"]
    for text in (*TEXTS, *long, *(random_text(rng, 80) for _ in range(60)), "".join(TEXTS) * 3):
        assert_alike(ours, theirs, text)


@SETTINGS
@given(data=st.data())
def test_any_text(ours: HFTokenizer, theirs: Any, data: st.DataObject) -> None:
    assert_alike(ours, theirs, data.draw(texts_for(ours)))


@SETTINGS
@given(data=st.data())
def test_round_trip_and_stream(family: str, ours: HFTokenizer, data: st.DataObject) -> None:
    """Text comes back from its ids, and token by token it is the same text."""
    text = data.draw(st.one_of(st.text(), texts_for(ours)))
    ids = ours.encode(text)
    if family not in (*LOSSY, "qwen2", "gpt2_with_prefix") and "▁" not in text and "<r>" not in text:
        assert ours.decode(ids) == well_formed(text)
    elif family == "qwen2":
        assert ours.encode(ours.decode(ids)) == ids
    stream = TextStream(ours)
    start = ours.encode("The mill")
    shown = ours.decode(start) + "".join(map(stream.add, ids)) + stream.flush()
    assert shown == ours.decode([*start, *ids])


@SETTINGS
@given(data=st.data())
def test_any_ids_stream_as_they_decode(ours: HFTokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(sorted(ours.tokens)), max_size=20))
    stream = TextStream(ours)
    start = ours.encode("The mill")
    assert ours.decode(start) + "".join(map(stream.add, ids)) + stream.flush() == ours.decode([*start, *ids])


def test_files_go_both_ways(ours: HFTokenizer, theirs: Any, tmp_path: Path) -> None:
    ours.save(tmp_path / "ours.json")
    theirs.save(str(tmp_path / "theirs.json"))
    theirs_back = tokenizers.Tokenizer.from_file(str(tmp_path / "ours.json"))
    ours_back = HFTokenizer(json.loads((tmp_path / "theirs.json").read_text(encoding="utf-8")))
    for text in (*TEXTS, "".join(ours.added)):
        assert_alike(ours, theirs_back, text)
        assert_alike(ours_back, theirs, text)
    assert ours_back.vocab_size == ours.vocab_size == max(theirs.get_vocab().values()) + 1


def test_load_tokenizer_opens_it(family: str, ours: HFTokenizer, tmp_path: Path) -> None:
    """The fast tokenizer where it can serve, with the same ids; else that of the family."""
    (tmp_path / "tokenizer.json").write_text(document(family), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, Tokenizer)
    assert isinstance(loaded, FastBPE) == (family == "gpt2")
    for text in TEXTS:
        assert loaded.encode(text) == ours.encode(text)
        assert loaded.decode(loaded.encode(text)) == ours.decode(ours.encode(text))
    assert (loaded.vocab_size, loaded.special) == (ours.vocab_size, ours.special)  # type: ignore[attr-defined]
    assert encode_plain(loaded, "".join(ours.added)) == ours.encode("".join(ours.added), plain=True)
