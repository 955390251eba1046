"""Configs are plain data: every mistake names the field and the nearest valid one."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from underhood.base.config import from_plain, get_part, override, part, read_toml, to_plain
from underhood.base.errors import ConfigError, UnknownName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    n_layer: int = 4
    norm: str = part("underhood.base.files", "write_json")
    cap: float | None = None
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.1
    fused: bool = True
    sizes: tuple[int, ...] = (1, 2)
    model: Inner = Inner()


OUTER = Outer(name="x")


def test_plain_round_trip() -> None:
    changed = override(OUTER, ["model.n_layer=6", "rate=3e-4", "fused=no", "sizes=3,4", "model.cap=2", "model.kind=b"])
    assert changed == Outer(name="x", rate=3e-4, fused=False, sizes=(3, 4), model=Inner(n_layer=6, cap=2.0, kind="b"))
    assert from_plain(Outer, to_plain(changed)) == changed
    assert override(changed, {"model.cap": None}).model.cap is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.n_layers=6", "n_layer"),
        ("modle.n_layer=6", "model"),
        ("model.n_layer=six", "a int"),
        ("model.n_layer=2.5", "a int"),
        ("fused=maybe", "a bool"),
        ("model.kind=c", "unknown value 'c'"),
        ("name.first=a", "inside a plain value"),
        ("rate", "FIELD=VALUE"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=message):
        override(OUTER, [setting])


def test_missing_fields_are_named() -> None:
    with pytest.raises(ConfigError, match="name not given"):
        from_plain(Outer, {})


def test_parts_are_looked_up_when_built() -> None:
    from underhood.base import files

    assert get_part(OUTER.model, "norm") is files.write_json
    assert get_part(Inner(norm="underhood.base.rng:stream_seed"), "norm").__name__ == "stream_seed"
    assert override(OUTER, {"model.norm": files.read_json}).model.norm == "underhood.base.files:read_json"
    with pytest.raises(UnknownName, match="write_json"):
        get_part(Inner(norm="write_jason"), "norm")


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("rate = 1\n[model]\nn_layer = 2\n")
    assert read_toml(OUTER, file) == Outer(name="x", rate=1.0, model=Inner(n_layer=2))
    file.write_text("rate = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(OUTER, file)
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(OUTER, tmp_path / "none.toml")
