"""The tokens that a model expects around a text, such as Llama's ``<s>`` before it: what a ``post_processor`` adds."""

from collections.abc import Container, Mapping
from typing import Any

from underhood.base.errors import TokenizerError
from underhood.text.fields import COUNT, FLAG, LIST, OBJECT, TEXT, Field, Kinds, read_components, read_fields, short

KINDS: Kinds = {
    "ByteLevel": {"add_prefix_space": FLAG, "trim_offsets": Field(bool, True), "use_regex": Field(bool, True)},  # moves offsets, adds nothing
    "TemplateProcessing": {"single": LIST, "pair": LIST, "special_tokens": OBJECT},
}
Ids = list[int]


def read_template(stage: Any, where: str, known: Container[int]) -> tuple[Ids, Ids]:
    """The ids before and after a text. Raises ``TokenizerError`` naming what is not supported, or an id that is not ``known``."""
    parts = [(here, fields) for here, kind, fields in read_components(stage, where, "processors", KINDS) if kind == "TemplateProcessing"]
    if not parts:
        return [], []
    if len(parts) > 1:
        raise TokenizerError("two templates", where=where, expected="at most one")
    here, fields = parts[0]
    pieces = [_piece(piece, f"{here}.single[{k}]", fields["special_tokens"], known) for k, piece in enumerate(fields["single"])]
    if pieces.count(None) != 1:
        raise TokenizerError(f"found {short(fields['single'])}", where=f"{here}.single", expected="the text once")
    at = pieces.index(None)
    return [i for ids in pieces[:at] for i in ids or ()], [i for ids in pieces[at:] for i in ids or ()]


def _piece(piece: Any, where: str, special: Mapping[str, Any], known: Container[int]) -> Ids | None:
    """The ids of a special token; None for the text itself."""
    form = next(iter(piece), None) if isinstance(piece, dict) and len(piece) == 1 else None
    if form not in ("SpecialToken", "Sequence"):
        raise TokenizerError(f"found {short(piece)}", where=where, expected="a SpecialToken or a Sequence")
    name = read_fields(piece[form], f"{where}.{form}", {"id": TEXT, "type_id": COUNT})["id"]
    if form == "Sequence":
        if name != "A":
            raise TokenizerError(f"found {short(name)}", where=f"{where}.Sequence.id", expected="'A'")
        return None
    if name not in special:
        raise TokenizerError(f"{name!r} is not among special_tokens", where=where)
    ids: Ids = read_fields(special[name], f"{where}: {name}", {"id": TEXT, "ids": LIST, "tokens": LIST})["ids"]
    if not all(type(i) is int and i in known for i in ids):
        raise TokenizerError(f"found {short(ids)}", where=f"{where}: {name}.ids", expected="ids of tokens")
    return ids
