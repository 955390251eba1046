"""See what the merges glue: a text as its tokens, and a word as the tree of its merges. Plain data first; colour for terminals on top of it."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from rich.text import Text
from rich.tree import Tree

from underhood.text.alphabet import byte_ids, utf8
from underhood.text.vocabulary import Pair

STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")  # neighbours differ
VISIBLE_SPACE = {" ": "·", "\n": "↵", "\t": "→", "\r": "←"}


class Merged(Protocol):
    """What is asked of a tokenizer here: byte-level BPE, readable or fast."""

    merges: list[Pair]
    tokens: dict[int, bytes]

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One token of a text: its id, its bytes, and the two ids that it was merged from (None for a single byte)."""

    id: int
    token: bytes
    parts: Pair | None

    @property
    def label(self) -> str:
        """The token for a reader: white space made visible, bytes that are no whole characters in hexadecimal."""
        return label(self.token)


@dataclasses.dataclass(frozen=True)
class Node:
    """A token and the two that it was merged from, down to single bytes; ``rank`` is the place of its merge in the order of learning."""

    piece: Piece
    rank: int | None
    children: tuple["Node", ...]


def label(token: bytes) -> str:
    """``token`` for a reader: ``b" the"`` is ``"·the"``, ``b"\\xe6"`` is ``"⟨e6⟩"``."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return f"⟨{token.hex(' ')}⟩"
    shown = "".join(VISIBLE_SPACE.get(char, char) for char in text)
    return shown if shown.isprintable() else f"⟨{token.hex(' ')}⟩"


def pieces(tokenizer: Merged, text: str) -> list[Piece]:
    """The tokens of ``text``, in order."""
    return [_piece(tokenizer, number) for number in tokenizer.encode(text)]


def _piece(tokenizer: Merged, number: int) -> Piece:
    rank = number - 256
    parts = tokenizer.merges[rank] if 0 <= rank < len(tokenizer.merges) else None
    return Piece(number, tokenizer.tokens[number], parts)


def tree(tokenizer: Merged, number: int) -> Node:
    """How the token ``number`` came to be."""
    piece = _piece(tokenizer, number)
    children = tuple(tree(tokenizer, part) for part in piece.parts) if piece.parts else ()
    return Node(piece, number - 256 if piece.parts else None, children)


def steps(tokenizer: Merged, word: str) -> list[list[str]]:
    """The word's pieces after each merge, from single bytes to its tokens: what encoding does, a row at a time."""
    ids, rows = byte_ids(utf8(word)), list[list[str]]()
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    while True:
        rows.append([label(tokenizer.tokens[number]) for number in ids])
        found = [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
        if not found:
            return rows
        rank, i = min(found)
        ids[i : i + 2] = [256 + rank]


def as_data(node: Node) -> dict[str, object]:
    """``node`` as nested dicts of JSON values."""
    return {"id": node.piece.id, "token": node.piece.label, "rank": node.rank, "children": [as_data(child) for child in node.children]}


def coloured(found: Sequence[Piece]) -> Text:
    """The pieces side by side, neighbours in different colours, with line ends where the text has them; without colour, ``|`` between them."""
    text = Text()
    for k, piece in enumerate(found):
        text.append(piece.label, style=STYLES[k % len(STYLES)])
        text.append("\n" if piece.token.endswith(b"\n") else "")
    return text


def ruled(found: Sequence[Piece]) -> str:
    """The pieces with ``|`` between them: for where there is no colour."""
    return "".join(piece.label + ("\n" if piece.token.endswith(b"\n") else "|") for piece in found).rstrip("|")


def drawn(node: Node) -> Tree:
    """``node`` as a tree of lines: each token with its id and the rank of its merge."""
    drawing = Tree(_caption(node))
    for child in node.children:
        drawing.add(drawn(child))
    return drawing


def _caption(node: Node) -> Text:
    rank = "" if node.rank is None else f", merge {node.rank}"
    return Text(node.piece.label, style="bold").append(f"  id {node.piece.id}{rank}", style="not bold dim")
