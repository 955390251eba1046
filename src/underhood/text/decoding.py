"""Ids back to text: the bytes that each token stands for, and what is done to the first."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from underhood.base.errors import TokenizerError
from underhood.text.alphabet import BYTE_OF_CHAR, utf8
from underhood.text.fields import COUNT, FLAG, OBJECT, TEXT, Field, Kinds, read_components, read_pattern, short

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
ORDER = re.compile("(Replace )*(ByteFallback )?(Fuse (Strip )?)?")
KINDS: Kinds = {
    "ByteLevel": {"add_prefix_space": FLAG, "trim_offsets": Field(bool, True), "use_regex": Field(bool, True)},
    "Metaspace": {
        "replacement": TEXT, "prepend_scheme": Field(str, "always"), "split": Field(bool, True),
        "add_prefix_space": Field((bool, type(None)), None), "str_rep": Field((str, type(None)), None),
    },
    "Replace": {"pattern": OBJECT, "content": TEXT}, "ByteFallback": {}, "Fuse": {}, "Strip": {"content": TEXT, "start": COUNT, "stop": COUNT},
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """``token``: a token's own bytes; ``first``: those of the first token of a text where they differ; ``strip``: how many spaces a text loses."""

    token: Callable[[str], bytes]
    first: Callable[[str], bytes] | None = None
    strip: int = 0


def read_decoder(stage: Any, where: str) -> Decoder:
    """What a ``decoder`` stands for. Raises ``TokenizerError`` naming what is not supported."""
    parts = read_components(stage, where, "decoders", KINDS)
    kinds = [kind for _, kind, _ in parts]
    here, fields = (parts[0][0], parts[0][2]) if parts else (where, {})
    if kinds == ["ByteLevel"]:
        return Decoder(token=from_visible)
    if kinds == ["Metaspace"]:
        return _metaspace(here, fields["replacement"], fields["prepend_scheme"])
    if not parts or not ORDER.fullmatch("".join(f"{kind} " for kind in kinds)):
        expected = "ByteLevel, Metaspace, or Replace, ByteFallback, Fuse and Strip in order"
        raise TokenizerError(f"found {' '.join(kinds) or 'none'}", where=where, expected=expected)
    changes = [(read_pattern(f["pattern"], f"{here}.pattern", "String"), f["content"]) for here, kind, f in parts if kind == "Replace"]
    token = functools.partial(_replaced, changes, "ByteFallback" in kinds)
    return Decoder(token=token, strip=_spaces(*parts[-1][::2]) if kinds[-1] == "Strip" else 0)


def from_visible(token: str) -> bytes:
    """The bytes that a byte-level token spells in GPT-2's visible characters; one that holds another character stands for itself."""
    try:
        return bytes([BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return utf8(token)


def _metaspace(where: str, replacement: str, prepend_scheme: str) -> Decoder:
    if len(replacement) != 1 or prepend_scheme not in ("always", "first", "never"):
        raise TokenizerError(f"found {short(replacement)} and {short(prepend_scheme)}", where=where, expected="one character; always, first or never")
    first = None if prepend_scheme == "never" else functools.partial(_replaced, [(replacement, "")], False)
    return Decoder(token=functools.partial(_replaced, [(replacement, " ")], False), first=first)


def _replaced(changes: Sequence[tuple[str, str]], byte_fallback: bool, token: str) -> bytes:
    for old, new in changes:
        token = token.replace(old, new)
    byte = BYTE_TOKEN.fullmatch(token) if byte_fallback else None
    return bytes([int(byte[1], 16)]) if byte else utf8(token)


def _spaces(where: str, fields: dict[str, Any]) -> int:
    if fields["content"] != " " or fields["start"] < 0 or fields["stop"] != 0:
        raise TokenizerError(f"found {short(fields)}", where=where, expected="spaces stripped at the start alone")
    start: int = fields["start"]
    return start
