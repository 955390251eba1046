"""The smallest tokenizer: one id a character. No training to speak of, long sequences, and no id for a character that it has not seen."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from underhood.base.errors import DataError, TokenizerError
from underhood.text.tokenizer_json import read_document, write_document


class CharTokenizer:
    """One id for each of ``chars``, in the order given."""

    def __init__(self, chars: Iterable[str]) -> None:
        self.chars = list(chars)
        self.ids = {char: number for number, char in enumerate(self.chars)}
        if len(self.ids) != len(self.chars) or not all(len(char) == 1 for char in self.chars):
            raise TokenizerError("some entry is no single character, or stands twice", where="chars")

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """The characters of ``text`` in the order of their code points. Raises ``DataError`` when there are none."""
        if not text:
            raise DataError("the text is empty", expected="at least one character")
        return cls(sorted(set(text)))

    @property
    def vocab_size(self) -> int:
        """How many characters it knows."""
        return len(self.chars)

    def encode(self, text: str) -> list[int]:
        """One id a character. Raises ``TokenizerError`` for a character that it does not know."""
        try:
            return [self.ids[char] for char in text]
        except KeyError as error:
            char = error.args[0]
            raise TokenizerError(
                f"{char!r} (U+{ord(char):04X}, character {text.index(char)}) is none of the {len(self.chars)} characters known",
                remedy="Train on text that has it, or use byte-level BPE, which knows every byte.",
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``. Raises ``TokenizerError`` for an id outside the vocabulary."""
        characters = []
        for number in ids:
            if not 0 <= number < len(self.chars):
                raise TokenizerError(f"no character has the id {number}", expected=f"0 … {len(self.chars) - 1}")
            characters.append(self.chars[number])
        return "".join(characters)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json`` that the ``tokenizers`` library loads too."""
        model = {"type": "WordLevel", "vocab": self.ids, "unk_token": "<unk>"}
        splitter = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        write_document(path, model, pre_tokenizer=splitter, decoder={"type": "Fuse"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "CharTokenizer":
        """Read what ``save`` wrote. Raises ``TokenizerError`` naming what is damaged."""
        return cls.of_document(read_document(path), str(path))

    @classmethod
    def of_document(cls, document: Mapping[str, Any], where: str) -> "CharTokenizer":
        """The tokenizer that a parsed ``tokenizer.json`` describes; ``where`` names the file in errors."""
        vocab = document["model"].get("vocab")
        if (
            not isinstance(vocab, dict)
            or not vocab
            or {type(number) for number in vocab.values()} != {int}
            or sorted(vocab.values()) != list(range(len(vocab)))
        ):
            raise TokenizerError("missing, empty, or its ids have gaps", where=f"{where}: model.vocab", expected="one id a character from 0 on")
        if not all(len(char) == 1 for char in vocab):
            raise TokenizerError("some entry is no single character", where=f"{where}: model.vocab")
        return cls(sorted(vocab, key=lambda char: int(vocab[char])))
