"""Configuration: frozen keyword-only dataclasses whose parts are named, so that every config is plain data.

A *part* (a norm, an activation, an optimizer) is a field that names a function or class: ``norm: str = part("underhood.nn.norm", "LayerNorm")``.
The value is the short name in the part's home module, or ``"module:qualname"``; ``get_part(config, "norm")`` looks it up when the thing is built,
so that a layer bound in its place (``underhood.lab.patch.Bind``) is the one that is found.
Order of settings: recipe (its dial first), then TOML, then ``--set``, then a break's ``Set``.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from underhood.base.errors import ConfigError, UnknownName
from underhood.base.names import load

C = TypeVar("C")


def part(home: str, name: str) -> Any:
    """A dataclass field that names a function or class of module ``home``; ``name`` is the default."""
    return dataclasses.field(default=name, metadata={"home": home})


def get_part(config: Any, field: str) -> Any:
    """The function or class that ``config.field`` names, looked up now. Raises ``UnknownName`` with the nearest."""
    value, home = getattr(config, field), _field(config, field).metadata["home"]
    if ":" in value:
        return load(value)
    try:
        return load(f"{home}:{value}")
    except UnknownName as error:
        raise UnknownName(field, value, error.known, where=type(config).__name__) from None


def to_plain(config: Any) -> dict[str, Any]:
    """``config`` as nested dicts of JSON values."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def from_plain(kind: type[C], values: Mapping[str, Any], *, where: str = "") -> C:
    """A ``kind`` from nested dicts; an unknown field or a value of the wrong type is a ``ConfigError``."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            raise UnknownName("option", name, fields, where=where or kind.__name__)
        arguments[name] = _convert(value, hints[name], f"{where}.{name}".lstrip("."))
    missing = [n for n, f in fields.items() if n not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not given", where=where or kind.__name__)
    return kind(**arguments)


def override(config: C, settings: Mapping[str, Any] | Iterable[str]) -> C:
    """``config`` with dotted fields replaced: ``{"model.n_layer": 6}`` or ``["model.n_layer=6"]`` (text is converted to the field's type)."""
    pairs = settings.items() if isinstance(settings, Mapping) else [_split(s) for s in settings]
    for path, value in pairs:
        config = _replace(config, path.split("."), value, path)
    return config


def read_toml(config: C, path: str | Path) -> C:
    """``config`` with the fields that the TOML file gives."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML ({error})", where=str(path)) from error
    return override(config, dict(_flatten(values)))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _split(setting: str) -> tuple[str, str]:
    path, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError(f"{setting!r} sets nothing", expected="FIELD=VALUE, as in model.n_layer=6")
    return path.strip(), value.strip()


def _field(config: Any, name: str) -> "dataclasses.Field[Any]":
    fields = {f.name: f for f in dataclasses.fields(config)}
    if name not in fields:
        raise UnknownName("option", name, fields, where=type(config).__name__)
    return fields[name]


def _replace(config: Any, path: list[str], value: Any, whole: str) -> Any:
    head, *rest = path
    if not dataclasses.is_dataclass(config):
        raise ConfigError(f"{head!r} is set inside a plain value", where=whole)
    _field(config, head)
    current = getattr(config, head)
    new = _replace(current, rest, value, whole) if rest else _convert(value, typing.get_type_hints(type(config))[head], whole)
    return dataclasses.replace(config, **{head: new})  # type: ignore[type-var]


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` (perhaps text from a command line) as the type ``hint``; anything lossy is refused."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if type(None) in options and value in (None, "none", "None"):
            return None
        return _convert(value, next(o for o in options if o is not type(None)), where)
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UnknownName("value", str(value), [str(c) for c in choices], where=where)
        return value
    if typing.get_origin(hint) is tuple:
        items = [i.strip() for i in value.split(",") if i.strip()] if isinstance(value, str) else value
        inner = typing.get_args(hint)[0]
        return tuple(_convert(i, inner, where) for i in items)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_plain(hint, value, where=where)  # type: ignore[arg-type]
    if hint is str and callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    try:
        if hint is bool and isinstance(value, str):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        if hint is int and isinstance(value, str):
            return int(value.replace("_", ""))
        if hint is float and isinstance(value, (str, int)) and not isinstance(value, bool):
            return float(value)
    except (KeyError, ValueError):
        raise ConfigError(f"found {value!r}", where=where, expected=f"a {hint.__name__}") from None
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"found {value!r}", where=where, expected=f"a {hint.__name__}")
    return value
