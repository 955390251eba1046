"""Token ids on disk: numbered files of little-endian integers, mapped into memory, with a ``shards.json`` that says what they are.

uint16 where the vocabulary allows it, uint32 elsewhere. The folder appears whole or not at all.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underhood.base.errors import DataError
from underhood.base.files import folder_atomic, read_json

FORMAT = 1
META = "shards.json"
SHARD_TOKENS = 1 << 24
KINDS: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardMeta:
    """What ``shards.json`` says."""

    format: int
    dtype: str
    vocab_size: int
    tokenizer_sha256: str  # of the tokenizer's file; ids mean nothing without it
    source: str
    n_bytes: int  # of the text that these tokens spell
    tokens: list[int]  # per shard
    sha256: list[str]  # per shard


def write_shards(
    folder: str | os.PathLike[str],
    documents: Iterable[Sequence[int]],
    *,
    vocab_size: int,
    tokenizer_sha256: str = "",
    source: str = "",
    n_bytes: int = 0,
    shard_tokens: int = SHARD_TOKENS,
) -> ShardMeta:
    """Write the ids of ``documents``, one after the other, as shards of ``shard_tokens`` in a new ``folder``.

    At most one shard and one document are held in memory. Raises ``DataError`` for an id outside the vocabulary or no ids at all,
    ``FileSystemError`` when the folder exists or cannot be written.
    """
    dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
    tokens, hashes = list[int](), list[str]()
    with folder_atomic(folder) as new:
        for i, ids in enumerate(_cut(documents, vocab_size, KINDS[dtype], shard_tokens)):
            (new / f"{i:05}.bin").write_bytes(ids.tobytes())
            tokens.append(len(ids))
            hashes.append(hashlib.sha256(ids.tobytes()).hexdigest())
        if not tokens:
            raise DataError("no tokens to write", where=str(folder))
        meta = ShardMeta(
            format=FORMAT, dtype=dtype, vocab_size=vocab_size, tokenizer_sha256=tokenizer_sha256, source=source, n_bytes=n_bytes, tokens=tokens, sha256=hashes
        )
        (new / META).write_text(json.dumps(dataclasses.asdict(meta), indent=1) + "\n", encoding="utf-8")
    return meta


def _cut(documents: Iterable[Sequence[int]], vocab_size: int, dtype: np.dtype[Any], shard_tokens: int) -> Iterable[NDArray[Any]]:
    held, n = list[NDArray[Any]](), 0
    for position, document in enumerate(documents):
        ids = np.asarray(document, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
            bad = int(ids.min() if ids.min() < 0 else ids.max())
            raise DataError(f"id {bad} in document {position}", expected=f"0 … {vocab_size - 1}", remedy="Encode it with the tokenizer of this vocabulary.")
        held.append(ids.astype(dtype))
        n += ids.size
        while n >= shard_tokens:
            whole = np.concatenate(held)
            yield whole[:shard_tokens]
            held, n = [whole[shard_tokens:]], n - shard_tokens
    if n:
        yield np.concatenate(held)


class Shards:
    """Ids of a folder of shards as one long sequence: ``len(shards)``, ``shards[a:b]`` (a new array), ``shards[i]``.

    Opening checks the description and the sizes; ``verify()`` reads every byte. Raises ``DataError`` naming the file and the remedy.
    """

    def __init__(self, folder: str | os.PathLike[str], tokenizer_sha256: str = "") -> None:
        self.folder = Path(folder)
        self.meta = _read_meta(self.folder / META)
        if tokenizer_sha256 and self.meta.tokenizer_sha256 != tokenizer_sha256:
            raise DataError("made with another tokenizer", where=str(self.folder), remedy="Give that tokenizer, or write the shards again with this one.")
        self._parts = [self._map(i, n) for i, n in enumerate(self.meta.tokens)]
        self._starts = np.cumsum([0, *self.meta.tokens])

    def _map(self, i: int, n: int) -> NDArray[Any]:
        path, dtype = self.folder / f"{i:05}.bin", KINDS[self.meta.dtype]
        if not path.is_file():
            raise DataError("missing", where=str(path), remedy="Write the shards again.")
        if path.stat().st_size != n * dtype.itemsize:
            raise DataError(f"{path.stat().st_size} bytes", where=str(path), expected=f"{n * dtype.itemsize}", remedy="It is damaged: write the shards again.")
        return np.memmap(path, dtype=dtype, mode="r")

    def verify(self) -> None:
        """Compare every shard with its checksum."""
        for i, part in enumerate(self._parts):
            if hashlib.sha256(part.tobytes()).hexdigest() != self.meta.sha256[i]:
                raise DataError("its checksum differs", where=str(self.folder / f"{i:05}.bin"), remedy="It is damaged: write the shards again.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(index)
            index %= len(self)
            return int(self[index : index + 1][0])
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("shards are read in steps of 1")
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for i in range(first, len(self._parts)):
            at = int(self._starts[i])
            if at >= stop:
                break
            pieces.append(self._parts[i][max(0, start - at) : stop - at])
        return np.concatenate(pieces) if pieces else np.empty(0, KINDS[self.meta.dtype])


def _read_meta(path: Path) -> ShardMeta:
    plain = read_json(path)
    try:
        meta = ShardMeta(**plain)
    except TypeError as error:
        raise DataError(f"not a description of shards ({error})", where=str(path)) from error
    counts = isinstance(meta.tokens, list) and all(isinstance(n, int) and n > 0 for n in meta.tokens)
    if meta.format != FORMAT or meta.dtype not in KINDS or not counts or not isinstance(meta.sha256, list) or len(meta.sha256) != len(meta.tokens):
        raise DataError("damaged, or written by another version", where=str(path), expected=f"format {FORMAT}", remedy="Write the shards again.")
    return meta
