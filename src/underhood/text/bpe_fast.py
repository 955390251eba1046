"""Byte-level BPE, the fast version: same interface and same ids as ``bpe.BPE``, whatever engine does the work.

Two engines: plain Python (``fast_python``), and numba (``fast_compiled``) for texts long enough to repay loading it. numba is optional
(``pip install numba``); without it, or where its compiled code cannot be kept anywhere, plain Python does everything.
"""

import importlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from types import ModuleType
from typing import Literal

import numpy as np
from jaxtyping import Int32

from underhood.base.errors import ConfigError, TokenizerError
from underhood.text import fast_python
from underhood.text.fast_python import Progress
from underhood.text.special import number_special, split_special
from underhood.text.tokenizer_json import read_tokenizer_json, write_tokenizer_json
from underhood.text.vocabulary import Pair, Vocabulary, merges_wanted, require_merges, token_bytes

Engine = Literal["auto", "python", "compiled"]
WORTH_COMPILING = 1 << 20  # characters: loading numba and its cached code takes about as long as plain Python needs for this many


def compiled_engine() -> ModuleType | None:
    """``fast_compiled``, or None where numba is not installed."""
    try:
        return importlib.import_module("underhood.text.fast_compiled")
    except ImportError:
        return None


class FastBPE:
    """A tokenizer: text to ids and back. ``engine``: "auto", or one of "python" and "compiled" for everything."""

    def __init__(self, merges: Sequence[Pair], pattern: str = "gpt2", special: Mapping[str, int] | Sequence[str] = (), *, engine: Engine = "auto") -> None:
        self.merges, self.pattern, self.engine = list(merges), pattern, engine
        self.special = number_special(special, 256 + len(self.merges))
        self.tokens = dict(enumerate(token_bytes(self.merges))) | {number: name.encode() for name, number in self.special.items()}
        self._python = fast_python.PythonEncoder(self.merges, pattern)
        self._compiled = _required_engine().CompiledEncoder(self.merges, pattern) if engine == "compiled" else None

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        pattern: str = "gpt2",
        special: Sequence[str] = (),
        *,
        engine: Engine = "auto",
        progress: Progress | None = None,
    ) -> "FastBPE":
        """Learn a vocabulary of ``vocab_size`` ids, bytes and special tokens included. Raises ``DataError`` when the text cannot fill it.

        ``progress(done, wanted)`` is called as merges are learned.
        """
        wanted = merges_wanted(vocab_size, special)
        texts, long = _peek(texts)
        module = _required_engine() if engine == "compiled" else compiled_engine() if engine == "auto" and long else None
        merges = (module or fast_python).learn([texts] if isinstance(texts, str) else texts, pattern, wanted, progress)
        require_merges(len(merges), wanted, vocab_size)
        return cls(merges, pattern, special, engine=engine)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.tokens) + 1

    def encode(self, text: str, allowed_special: Collection[str] = frozenset()) -> list[int]:
        """The ids of ``text``. A special token inside it is plain text unless ``allowed_special`` names it."""
        encoder = self._encoder(text)
        if not allowed_special:
            return encoder.encode(text)
        ids: list[int] = []
        for piece in split_special(text, self.special, allowed_special):
            ids += [piece] if isinstance(piece, int) else encoder.encode(piece)
        return ids

    def encode_array(self, text: str) -> Int32[np.ndarray, "N"]:
        """The ids of ``text``, special tokens as plain text, in an int32 array: for corpora."""
        encoder = self._encoder(text)
        return encoder.encode_array(text) if encoder is self._compiled else np.array(encoder.encode(text), np.int32)

    def _encoder(self, text: str) -> "fast_python.PythonEncoder":
        if self._compiled is None and self.engine == "auto" and len(text) >= WORTH_COMPILING:
            module = compiled_engine()
            self._compiled = module.CompiledEncoder(self.merges, self.pattern) if module else None
        return self._compiled or self._python

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ``ids``. Raises ``TokenizerError`` for an id outside the vocabulary."""
        try:
            return b"".join(map(self.tokens.__getitem__, ids))
        except KeyError as error:
            raise TokenizerError(f"no token has the id {error.args[0]}", expected=f"0 … {self.vocab_size - 1}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json`` that the ``tokenizers`` library loads too."""
        write_tokenizer_json(path, Vocabulary(merges=self.merges, pattern=self.pattern, special=self.special))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, engine: Engine = "auto") -> "FastBPE":
        """Read a ``tokenizer.json``. Raises ``TokenizerError`` naming what is damaged."""
        vocabulary = read_tokenizer_json(path)
        return cls(vocabulary.merges, vocabulary.pattern, vocabulary.special, engine=engine)


def _required_engine() -> ModuleType:
    module = compiled_engine()
    if module is None:
        raise ConfigError("numba is not installed", where="engine='compiled'", remedy="Install it with: pip install numba")
    return module


def _peek(texts: Iterable[str]) -> tuple[Iterable[str], bool]:
    """``texts`` unread, and whether they are long enough to repay loading numba."""
    read, length, rest = [], 0, iter([texts] if isinstance(texts, str) else texts)
    for text in rest:
        read.append(text)
        length += len(text)
        if length >= WORTH_COMPILING:
            return chain(read, rest), True
    return read, False
