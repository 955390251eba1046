"""Tokens as text for people: special tokens, and ids that the tokenizer does not know, are no text."""

import os
from collections.abc import Callable, Iterable

from underhood.base.errors import TokenizerError
from underhood.data.tokens import end_id
from underhood.text.tokenizer import Tokenizer, encode_plain


class Spoken:
    """A tokenizer for the engine: a model may have more ids than its tokenizer, and may write control tokens; neither is shown, neither is an error."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.silent = frozenset(getattr(tokenizer, "special", {}).values())
        self._bytes: Callable[[list[int]], bytes] | None = getattr(tokenizer, "decode_bytes", None)

    @property
    def vocab_size(self) -> int:
        """As the tokenizer's."""
        return self.tokenizer.vocab_size

    def bytes_of(self, token: int) -> bytes:
        """The bytes of any id, also of one that is not shown; none for an unknown one."""
        try:
            return self._bytes([token]) if self._bytes else self.tokenizer.decode([token]).encode()
        except TokenizerError:
            return b""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that are shown."""
        return b"".join(b"" if i in self.silent else self.bytes_of(i) for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text that is shown."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode(self, text: str) -> list[int]:
        """The ids of what a person wrote, after what the model expects before a text; nothing at all begins a document. Raises ``TokenizerError``."""
        begin = list(getattr(self.tokenizer, "begin_ids", ()))
        ids = begin + encode_plain(self.tokenizer, text)
        mark = end_id(self.tokenizer)
        return ids or ([] if mark is None else [mark])

    def save(self, path: str | os.PathLike[str]) -> None:
        """As the tokenizer's."""
        self.tokenizer.save(path)
