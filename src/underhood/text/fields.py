"""The fields of a parsed ``tokenizer.json``: each is known by its name and type. One that is not might change the ids, so it is an error."""

import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from underhood.base.errors import TokenizerError

REQUIRED = object()


class Field(NamedTuple):
    """What a field may hold, and what stands for it where it is absent."""

    types: type | tuple[type, ...]
    default: Any = REQUIRED


Kinds = Mapping[str, Mapping[str, Field]]
TEXT, FLAG, LIST, OBJECT, COUNT = Field(str), Field(bool), Field(list), Field(dict), Field(int)
STAGES = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
MAYBE_TEXT = Field((str, type(None)), None)
MODEL = {
    "type": Field(str, "BPE"), "vocab": OBJECT, "merges": LIST, "unk_token": MAYBE_TEXT, "dropout": Field((float, int, type(None)), None),
    "continuing_subword_prefix": MAYBE_TEXT, "end_of_word_suffix": MAYBE_TEXT, "fuse_unk": Field(bool, False), "byte_fallback": Field(bool, False),
    "ignore_merges": Field(bool, False),
}  # fmt: skip
VERSION = "1.0"


def read_fields(value: Any, where: str, known: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of the object ``value``, all of ``known`` and no others. Raises ``TokenizerError`` naming the one that is wrong."""
    if not isinstance(value, dict):
        raise TokenizerError(f"found {short(value)}", where=where, expected="an object")
    for name in value:
        if name not in known:
            raise TokenizerError("an unknown field, which may change the ids", where=f"{where}.{short(name)}", expected=", ".join(known))
    return {name: _read(value, name, field, f"{where}.{name}") for name, field in known.items()}


def _read(value: Mapping[str, Any], name: str, field: Field, where: str) -> Any:
    found = value.get(name, field.default)
    if found is REQUIRED:
        raise TokenizerError("is missing", where=where)
    types = field.types if isinstance(field.types, tuple) else (field.types,)
    if type(found) not in types:
        raise TokenizerError(f"found {short(found)}", where=where, expected=" or ".join(kind.__name__ for kind in types))
    return require_text(found, where) if isinstance(found, str) else found


def read_component(value: Any, where: str, kinds: Kinds) -> tuple[str, dict[str, Any]]:
    """The ``type`` of a component, one of ``kinds``, and its fields. Raises ``TokenizerError``."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise TokenizerError(f"found {short(value)}", where=where, expected="an object with a 'type'")
    if kind not in kinds:
        raise TokenizerError(f"{short(kind)} is not supported", where=where, expected=", ".join(kinds))
    fields = read_fields(value, where, {"type": TEXT, **kinds[kind]})
    del fields["type"]
    return kind, fields


def read_components(stage: Any, where: str, list_name: str, kinds: Kinds) -> list[tuple[str, str, dict[str, Any]]]:
    """The components of a stage in order, each as (where, type, fields): none for null, one, or those of a ``Sequence``."""
    if stage is None:
        return []
    if not isinstance(stage, dict) or stage.get("type") != "Sequence":
        return [(where, *read_component(stage, where, kinds))]
    parts = read_fields(stage, where, {"type": TEXT, list_name: LIST})[list_name]
    return [(here, *read_component(part, here, kinds)) for k, part in enumerate(parts) if (here := f"{where}.{list_name}[{k}]")]


def read_pattern(value: Mapping[str, Any], where: str, form: str) -> str:
    """The pattern in ``{form: pattern}``, a ``String`` or a ``Regex``, which must not be empty."""
    if set(value) != {form} or not isinstance(value[form], str) or not value[form]:
        raise TokenizerError(f"found {short(value)}", where=where, expected=f"a {form}")
    return require_text(value[form], where)


def require_text(text: str, where: str) -> str:
    """``text``, which must be Unicode: JSON can write halves of surrogate pairs, and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TokenizerError(f"found {short(text)}, which is not Unicode text", where=where) from None
    return text


def is_count(value: Any) -> bool:
    """Whether ``value`` can be an id: a whole number from 0 on that fits in 31 bits."""
    return type(value) is int and 0 <= value < 1 << 31


def short(value: Any) -> str:
    """``value`` for an error message, cut where it is long or deep."""
    return reprlib.repr(value)


def read_model(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of the document's ``model``, with every name in the document known. Raises ``TokenizerError``."""
    for name in document:
        if name not in STAGES:
            raise TokenizerError(f"an unknown field {short(name)}, which may change the ids", where=where, expected=", ".join(STAGES))
    if document.get("version", VERSION) not in (VERSION, None):
        raise TokenizerError(f"found {short(document['version'])}", where=f"{where}: version", expected=repr(VERSION))
    return read_fields(document.get("model"), f"{where}: model", MODEL)
