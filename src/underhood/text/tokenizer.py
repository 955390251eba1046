"""What every tokenizer offers, and how one is read from a file without knowing its kind."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from underhood.base.errors import TokenizerError
from underhood.text.bpe import BPE
from underhood.text.bpe_fast import FastBPE
from underhood.text.chars import CharTokenizer
from underhood.text.tokenizer_json import read_document, vocabulary_of


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json``."""


def load_tokenizer(path: str | os.PathLike[str], *, readable: bool = False) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, or in the folder that holds one: byte-level BPE (the fast one, unless ``readable``) or characters.

    Raises ``TokenizerError`` naming the file and the field that is missing, damaged or not supported.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    document = read_document(path)
    kind = document["model"].get("type", "BPE")
    if kind == "WordLevel":
        return CharTokenizer.of_document(document, str(path))
    if kind != "BPE":
        raise TokenizerError(f"found {kind!r}", where=f"{path}: model.type", expected="'BPE' or 'WordLevel' (characters)")
    vocabulary = vocabulary_of(document, str(path))
    return (BPE if readable else FastBPE)(vocabulary.merges, vocabulary.pattern, vocabulary.special)
