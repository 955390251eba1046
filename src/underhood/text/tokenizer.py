"""What every tokenizer offers, and how one is read from a file without knowing its kind."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from underhood.base.errors import TokenizerError
from underhood.text.bpe import BPE
from underhood.text.bpe_fast import FastBPE
from underhood.text.chars import CharTokenizer
from underhood.text.hf_tokenizer import HFTokenizer
from underhood.text.template import read_template
from underhood.text.tokenizer_json import read_document, vocabulary_of
from underhood.text.vocabulary import Vocabulary

PLAIN = {"special": True, "lstrip": False, "rstrip": False, "single_word": False}


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
    """The tokenizer in a ``tokenizer.json``, or in the folder that holds one.

    Characters, byte-level BPE as we save it (the fast one, unless ``readable``), or that of a published model. Raises ``TokenizerError`` naming the
    file and the field that is missing, damaged or not supported.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    return tokenizer_of(read_document(path), str(path), readable=readable)


def tokenizer_of(document: Mapping[str, Any], where: str, *, readable: bool = False) -> Tokenizer:
    """The tokenizer that a parsed ``tokenizer.json`` describes; ``where`` names the file in errors."""
    kind = document["model"].get("type", "BPE")
    if kind == "WordLevel":
        return CharTokenizer.of_document(document, where)
    if kind != "BPE":
        raise TokenizerError(f"found {kind!r}", where=f"{where}: model.type", expected="'BPE' or 'WordLevel' (characters)")
    vocabulary = _plain_vocabulary(document, where)
    if vocabulary is None:
        return HFTokenizer(document, where)
    return (BPE if readable else FastBPE)(vocabulary.merges, vocabulary.pattern, vocabulary.special)


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of what a person wrote: no special and no other added token is found in it."""
    return tokenizer.encode(text, plain=True) if isinstance(tokenizer, HFTokenizer) else tokenizer.encode(text)


def _plain_vocabulary(document: Mapping[str, Any], where: str) -> Vocabulary | None:
    """The vocabulary of a file whose ids follow from its merges and that asks for nothing that ``BPE`` does not do; else None."""
    decoder = document.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        return None
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) and PLAIN.items() <= token.items() for token in added):
        return None
    try:
        before, after = read_template(document.get("post_processor"), where, known=())
        return None if before or after else vocabulary_of(document, where)
    except TokenizerError:
        return None
