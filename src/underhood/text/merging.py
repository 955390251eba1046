"""Merges of any tokenizer: ranks and ids in any order, several merges into one token.

It does what ``bpe.encode_word`` does, of all pairs present the one of lowest rank, leftmost first, and is linear in a word of any length.
"""

import heapq
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int32

from underhood.text.fast_python import GONE, SCAN, Places, _by_new_id, _every_other, _in_order
from underhood.text.vocabulary import Pair


class Merges:
    """``pairs`` in the order of their ranks, no pair twice, and the id that each makes."""

    def __init__(self, pairs: Sequence[Pair], made: Sequence[int]) -> None:
        self.pairs, self.made = pairs, made
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        first_use: dict[int, int] = {}
        for rank, pair in enumerate(pairs):
            for part in pair:
                first_use.setdefault(part, rank)
        self.used_before = [first_use.get(token, rank) < rank for rank, token in enumerate(made)]

    def apply(self, ids: list[int]) -> list[int]:
        """``ids`` merged until no pair is left that merges; the list may be changed."""
        return self._by_scan(ids) if len(ids) <= SCAN else _LongWord(self, ids).merged()

    def _by_scan(self, ids: list[int]) -> list[int]:
        never = len(self.made)
        ranks = [self.ranks.get(pair, never) for pair in pairwise(ids)]
        while ranks:
            best = min(ranks)
            if best == never:
                break
            i = ranks.index(best)
            ids[i : i + 2] = [self.made[best]]
            del ranks[i]
            if i < len(ranks):
                ranks[i] = self.ranks.get((ids[i], ids[i + 1]), never)
            if i > 0:
                ranks[i - 1] = self.ranks.get((ids[i - 1], ids[i]), never)
        return ids


class _LongWord:
    """A linked list of symbols in arrays, and for each rank the places where its pair was seen; ranks are done from the lowest up.

    All places of a rank are merged in one go in NumPy, unless the token it makes is part of a merge of lower rank: that merge then comes before
    the next place of this one, so the places are done one by one.
    """

    def __init__(self, merges: Merges, ids: list[int]) -> None:
        self.merges, self.n = merges, len(ids)
        self.symbols = np.append(np.array(ids, np.int32), np.int32(GONE))  # the last stands for the end
        self.following, self.previous = np.arange(1, self.n + 2, dtype=np.int32), np.arange(-1, self.n, dtype=np.int32)
        self.at = self.symbols.data, self.following.data, self.previous.data  # ten times faster than NumPy for single numbers
        self.places: dict[int, list[Places]] = {}
        self.waiting: list[int] = []
        self._enter(np.arange(self.n - 1, dtype=np.int32))

    def merged(self) -> list[int]:
        """The ids that are left when nothing merges any more."""
        while self.waiting:
            rank = heapq.heappop(self.waiting)
            at = _in_order(self.places.pop(rank))
            done = self._one_by_one(rank, at) if self.merges.used_before[rank] else self._at_once(rank, at)
            before = self.previous[done]
            self._enter(_in_order([before[before >= 0], done[self.following[done] < self.n]]))
        found: list[int] = self.symbols[self.symbols != GONE].tolist()
        return found

    def _enter(self, at: Int32[np.ndarray, "n"]) -> None:
        """List each of these places under the rank of the pair that starts there."""
        keys = self.symbols[at].astype(np.int64) << 32 | self.symbols[self.following[at]]
        for rank, group in _by_new_id(at, keys, self.merges.ranks):
            if rank not in self.places:
                heapq.heappush(self.waiting, rank)
            self.places.setdefault(rank, []).append(group)

    def _at_once(self, rank: int, at: Places) -> Places:
        left, right = self.merges.pairs[rank]
        at = at[(self.symbols[at] == left) & (self.symbols[self.following[at]] == right)]  # others were merged away since they were listed
        if left == right:
            at = _every_other(at, self.following)
        gone = self.following[at]
        self.symbols[at], self.symbols[gone] = self.merges.made[rank], GONE
        self.following[at] = self.following[gone]
        self.previous[self.following[at]] = at
        return at

    def _one_by_one(self, rank: int, at: Places) -> Places:
        (symbols, following, _), done = self.at, []
        for place in at.tolist():
            if (symbols[place], symbols[following[place]]) == self.merges.pairs[rank]:
                self._join(place, rank)
                done.append(self._grow(place, rank))
        reached = np.array(done, np.int32)
        kept: Places = reached[self.symbols[reached] != GONE]
        return kept

    def _grow(self, place: int, rank: int) -> int:
        """Merges of rank below ``rank`` around the symbol at ``place``, the lowest first; returns where the symbol starts at the end."""
        symbols, following, previous = self.at
        ranks = self.merges.ranks
        while True:
            before, after = previous[place], following[place]
            to_left = ranks.get((symbols[before], symbols[place]), rank) if before >= 0 else rank
            to_right = ranks.get((symbols[place], symbols[after]), rank)
            if min(to_left, to_right) >= rank:
                return place
            if to_left <= to_right:
                place = before
            self._join(place, min(to_left, to_right))

    def _join(self, place: int, rank: int) -> None:
        """Merge the symbol at ``place`` with the one that follows."""
        symbols, following, previous = self.at
        gone = following[place]
        symbols[place], symbols[gone] = self.merges.made[rank], GONE
        following[place] = following[gone]
        previous[following[place]] = place
