"""The fast tokenizer on numba: owns the arrays that the kernels of ``compiled_encode`` and ``compiled_train`` fill, and makes room when they run out."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int32

from underhood.base.errors import DataError
from underhood.text import compiled_encode, compiled_train
from underhood.text.alphabet import ID_OF_BYTE, utf8
from underhood.text.fast_python import Progress
from underhood.text.split import character_classes, expression
from underhood.text.vocabulary import Pair

Ids = Int32[np.ndarray, "N"]
Array = np.ndarray[Any, Any]
MERGES_A_CALL = 1024  # between two reports of progress
REMEMBERED = 1 << 17  # words the encoder knows at once: about 16 MB with their keys and ids
FREE = -1


def classes() -> Array:
    """The class of every code point, one byte each."""
    return np.frombuffer(character_classes(), np.uint8)


def split(text: str, pattern: str = "gpt2") -> list[str]:
    """As ``split.split``, by the hand-made splitter."""
    expression(pattern)
    data = utf8(text)
    ends = np.empty(len(data), np.int64)
    count = compiled_encode.split_ends(np.frombuffer(data, np.uint8), classes(), pattern == "gpt4", ends)
    bounds = [0, *ends[:count].tolist()]
    return [data[a:b].decode() for a, b in pairwise(bounds)]


class WordCounts:
    """The distinct words of a text and how often each stands in it, in the order met."""

    def __init__(self, pattern: str) -> None:
        expression(pattern)
        self.gpt4 = pattern == "gpt4"
        self.used = np.zeros(2, np.int64)  # words, bytes
        self.arena, self.starts = np.empty(1 << 16, np.uint8), np.zeros((1 << 11) + 1, np.int64)
        self.table = np.zeros((1 << 12, 4), np.uint64)

    def add(self, text: str) -> None:
        """Count the words of ``text``."""
        data = np.frombuffer(utf8(text), np.uint8)
        if self.used[1] + len(data) > len(self.arena):
            self.arena = _grown(self.arena, max(2 * len(self.arena), int(self.used[1]) + len(data)))
        reached, table = 0, classes()
        while reached < len(data):
            reached = compiled_encode.count_words(data, reached, table, self.gpt4, self.table, self.starts, self.arena, self.used)
            if reached < len(data):
                self._make_room()

    def counts(self) -> Array:
        """How often each word stands in the text, by its number."""
        counts = np.empty(self.used[0], np.int64)
        compiled_encode.read_counts(self.table, counts)
        return counts

    def _make_room(self) -> None:
        old, self.table = self.table, np.zeros((4 * len(self.table), 4), np.uint64)
        compiled_encode.refill(old, self.table)
        self.starts = _grown(self.starts, len(self.table) // 2 + 1)


def _grown(array: Array, size: int) -> Array:
    grown = np.empty(size, array.dtype)
    grown[: len(array)] = array
    return grown


class PairCounts:
    """Every pair with its count and places, and the heap that knows the next one to merge."""

    def __init__(self, words: WordCounts, n: int) -> None:
        count, size = int(words.used[0]), int(words.used[1])
        if size >= 2**31:
            raise DataError(f"the distinct words have {size} bytes together", expected="less than 2³¹", remedy="Train on a part of the text.")
        self.counts = words.counts()
        self.symbols, self.left, self.right, self.word_of = (np.empty(size, np.int32) for _ in range(4))
        compiled_train.lay_out(words.arena, words.starts, count, np.array(ID_OF_BYTE), self.symbols, self.left, self.right, self.word_of)
        self.places = np.empty(3 * size, np.int32)  # one a pair at the start, then at most two a merge
        self.news_place, self.news_pair = np.empty(2 * size, np.int32), np.empty(2 * size, np.int64)
        self.gained, self.met, self.touched = (np.zeros(2 * (256 + n), np.int64) for _ in range(3))
        self.pair_keys, self.pair_counts, self.pair_first, self.pair_length, self.heap_counts, self.heap_pairs = (np.empty(0, np.int64) for _ in range(6))
        self.sizes = np.zeros(3, np.int64)  # pairs, places used, entries in the heap
        self._make_table(1 << 18)
        self.sizes[:2] = compiled_train.first_pairs(self.symbols, self.right, self.word_of, self.counts, self.places, *self._pairs(), *self._table())
        self.sizes[2] = compiled_train.first_heap(self.sizes[0], self.pair_counts, self.pair_keys, self.heap_counts, self.heap_pairs)
        self.merges = np.empty(n, np.int64)
        self.done = 0

    def learn(self, until: int) -> bool:
        """Go on to ``until`` merges; False when no pair is left before that."""
        while self.done < until and self.sizes[2]:
            self.done = compiled_train.learn(
                self.merges, self.done, until, self.symbols, self.left, self.right, self.word_of, self.counts, self.places, *self._pairs(), *self._table(),
                self.heap_counts, self.heap_pairs, self.gained, self.met, self.touched, self.news_place, self.news_pair, self.sizes)  # fmt: skip
            if self.done < until and self.sizes[2]:
                self._make_table(2 * len(self.table))
        return self.done == until

    def _pairs(self) -> tuple[Array, ...]:
        return self.pair_keys, self.pair_counts, self.pair_first, self.pair_length

    def _table(self) -> tuple[Array, ...]:
        return self.table_keys, self.table

    def _make_table(self, slots: int) -> None:
        """A table of ``slots`` with room for half as many pairs, but always for those of the next merge."""
        room = slots // 2
        for name in ("pair_keys", "pair_counts", "pair_first", "pair_length", "heap_counts", "heap_pairs"):
            setattr(self, name, _grown(getattr(self, name), room))
        self.table_keys, self.table = np.empty(slots, np.int64), np.full(slots, FREE, np.int64)
        compiled_train.refill_pairs(self.sizes[0], self.pair_keys, *self._table())


def learn(texts: Iterable[str], pattern: str, n: int, progress: Progress | None = None) -> list[Pair]:
    """The first ``n`` merges, as ``bpe.learn_merges``."""
    words = WordCounts(pattern)
    for text in texts:
        words.add(text)
    pairs = PairCounts(words, n)
    while pairs.done < n and pairs.learn(min(n, pairs.done + MERGES_A_CALL)):
        if progress:
            progress(pairs.done, n)
    return [(key >> 32, key & 0xFFFFFFFF) for key in pairs.merges[: pairs.done].tolist()]


class CompiledEncoder:
    """Encodes plain text; a word met before costs one look-up."""

    def __init__(self, merges: Sequence[Pair], pattern: str) -> None:
        expression(pattern)
        self.gpt4 = pattern == "gpt4"
        self.id_of_byte = np.array(ID_OF_BYTE, np.int32)
        keys = np.array([left << 32 | right for left, right in merges], np.int64)
        slots = 1 << (4 * len(merges) + 1).bit_length()
        self.merge_keys, self.new_ids = np.empty(slots, np.int64), np.full(slots, FREE, np.int32)
        compiled_encode.fill_merges(keys, self.merge_keys, self.new_ids)
        self.table = np.zeros((2 * REMEMBERED, 4), np.uint64)
        self.starts, self.spelled = np.zeros(REMEMBERED + 1, np.int64), np.zeros(REMEMBERED + 1, np.int64)
        self.arena, self.spelling = np.empty(16 * REMEMBERED, np.uint8), np.empty(16 * REMEMBERED, np.int32)
        self.used = np.zeros(2, np.int64)
        self.boxed = np.arange(256 + len(merges)).astype(object)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        ids: list[int] = self.boxed[self.encode_array(text)].tolist()  # one Python int per token of the vocabulary, not per token of the text
        return ids

    def encode_array(self, text: str) -> Ids:
        """The ids of ``text`` as an int32 array."""
        data = np.frombuffer(utf8(text), np.uint8)
        out = np.empty(len(data), np.int32)
        reached, count, table = 0, 0, classes()
        while reached < len(data):
            reached, count = compiled_encode.encode_text(
                data, reached, table, self.gpt4, self.id_of_byte, self.merge_keys, self.new_ids,
                self.table, self.starts, self.arena, self.spelled, self.spelling, self.used, out, count)  # fmt: skip
            if reached < len(data):  # the memory is full: start afresh
                self.table.fill(0)
                self.used[:] = 0
        return out[:count]
