"""The fast tokenizer without numba: pair counts kept up to date, words encoded once, endless words in NumPy.

It does the work where numba is absent, and on short texts everywhere.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import regex  # type: ignore[import-untyped]
from jaxtyping import Int32, Int64

from underhood.text.alphabet import ID_OF_BYTE, byte_ids, utf8, well_formed
from underhood.text.bpe import count_pairs, count_words, merge
from underhood.text.split import expression
from underhood.text.vocabulary import Pair

SCAN = 512  # up to this many symbols a scan for the lowest rank beats lists of places
FEW = 8  # up to this many kinds of pair, comparing with each beats sorting
GONE = -1
Places = Int32[np.ndarray, "n"]
REMEMBERED = 1 << 16  # words; then the memory starts afresh
LONGEST_REMEMBERED = 1 << 10  # characters
Progress = Callable[[int, int], None]


def learn(texts: Iterable[str], pattern: str, n: int, progress: Progress | None = None) -> list[Pair]:
    """The first ``n`` merges, as ``bpe.learn_merges``: only the words that hold the merged pair are counted again.

    The top of the heap may be stale: counts of existing pairs only fall, so an entry that is too high is put back with its true count.
    """
    counted = count_words(texts, pattern)
    words, counts = list(counted), list(counted.values())
    pairs = count_pairs(counted)
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for place, word in enumerate(words):
        for pair in pairwise(word):
            places[pair].add(place)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < n:
        claimed, best = heap[0]
        if pairs[best] != -claimed or pairs[best] == 0:
            heapq.heappop(heap) if pairs[best] == 0 else heapq.heapreplace(heap, (-pairs[best], best))
            continue
        heapq.heappop(heap)
        changed = _merge_in_words(best, 256 + len(merges), words, counts, places)
        for pair, change in changed.items():
            pairs[pair] += change
            if change > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
        merges.append(best)
        if progress and (len(merges) % 256 == 0 or len(merges) == n):
            progress(len(merges), n)
    return merges


def _merge_in_words(pair: Pair, new: int, words: list[tuple[int, ...]], counts: list[int], places: defaultdict[Pair, set[int]]) -> Counter[Pair]:
    """Merge ``pair`` in the words that hold it; returns by how much each pair's count changed."""
    changed: Counter[Pair] = Counter()
    for place in places.pop(pair):
        old, words[place] = words[place], merge(words[place], pair, new)
        for gone in pairwise(old):
            changed[gone] -= counts[place]
        for come in pairwise(words[place]):
            changed[come] += counts[place]
            places[come].add(place)
    return changed


class PythonEncoder:
    """Encodes plain text; a word met before costs one look-up."""

    def __init__(self, merges: Sequence[Pair], pattern: str) -> None:
        self.words = regex.compile(expression(pattern)).findall
        self.merges = merges
        self.new_ids = {pair: 256 + rank for rank, pair in enumerate(merges)}
        self.known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        ids: list[int] = []
        known = self.known
        for word in self.words(well_formed(text)):
            found = known.get(word)
            if found is None:
                found = self._encode_word(word)
            ids += found
        return ids

    def _encode_word(self, word: str) -> list[int]:
        data = utf8(word)
        found = encode_by_scan(byte_ids(data), self.new_ids) if len(data) <= SCAN else encode_by_places(data, self.merges, self.new_ids)
        if len(word) <= LONGEST_REMEMBERED:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            self.known[word] = found
        return found


def encode_by_scan(ids: list[int], new_ids: dict[Pair, int]) -> list[int]:
    """Merge the pair of lowest rank, leftmost first, until none is left."""
    never = 256 + len(new_ids)
    ranks = [new_ids.get(pair, never) for pair in pairwise(ids)]
    while ranks:
        best = min(ranks)
        if best == never:
            break
        i = ranks.index(best)
        ids[i : i + 2] = [best]
        del ranks[i]
        if i < len(ranks):
            ranks[i] = new_ids.get((ids[i], ids[i + 1]), never)
        if i > 0:
            ranks[i - 1] = new_ids.get((ids[i - 1], ids[i]), never)
    return ids


def encode_by_places(word: bytes, merges: Sequence[Pair], new_ids: dict[Pair, int]) -> list[int]:
    """As ``encode_by_scan`` for endless words: all places of one rank are merged in one go, from left to right, in NumPy.

    That is the same order: a merge makes pairs of higher rank only, because its token has to exist before they can be learned. Every place is
    listed once a merge beside it, so the work is linear in the word.
    """
    n = len(word)
    symbols = np.append(np.array(ID_OF_BYTE, np.int32)[np.frombuffer(word, np.uint8)], np.int32(GONE))  # the last stands for the end
    following, previous = np.arange(1, n + 2, dtype=np.int32), np.arange(-1, n, dtype=np.int32)
    places: dict[int, list[Places]] = {}
    waiting: list[int] = []

    def enter(at: Places) -> None:
        """List each of these places under the id that it and its right neighbour merge into."""
        for new, group in _by_new_id(at, symbols[at].astype(np.int64) << 32 | symbols[following[at]], new_ids):
            if new not in places:
                heapq.heappush(waiting, new)
            places.setdefault(new, []).append(group)

    enter(np.arange(n - 1, dtype=np.int32))
    while waiting:
        new = heapq.heappop(waiting)
        left, right = merges[new - 256]
        at = _in_order(places.pop(new))
        at = at[(symbols[at] == left) & (symbols[following[at]] == right)]  # others were merged away since they were listed
        if left == right:
            at = _every_other(at, following)
        gone = following[at]
        symbols[at], symbols[gone] = new, GONE
        following[at] = following[gone]
        previous[following[at]] = at
        before = previous[at]
        enter(_in_order([before[before >= 0], at[following[at] < n]]))
    found: list[int] = symbols[symbols != GONE].tolist()
    return found


def _in_order(groups: list[Places]) -> Places:
    """All places of the groups from left to right, each once."""
    at: Places = np.sort(np.concatenate(groups), kind="stable")
    once: Places = at[np.append(True, at[1:] != at[:-1])[: len(at)]]
    return once


def _by_new_id(at: Places, keys: Int64[np.ndarray, "n"], new_ids: dict[Pair, int]) -> Iterator[tuple[int, Places]]:
    """The places grouped by the id that their pair (left id × 2³² + right id) merges into; pairs that do not merge are left out."""
    distinct = np.unique(keys)
    known = [new_ids.get((key >> 32, key & 0xFFFFFFFF), GONE) for key in distinct.tolist()]
    which = np.array(known, np.int32)[np.searchsorted(distinct, keys)]
    for new in sorted({new for new in known if new != GONE}) if len(distinct) <= FEW else ():
        yield new, at[which == new]
    if len(distinct) > FEW:
        order = np.argsort(which, kind="stable")
        starts = np.flatnonzero(np.diff(which[order], prepend=GONE - 1))
        for start, group in zip(starts, np.split(at[order], starts[1:]), strict=True):
            if which[order[start]] != GONE:
                yield int(which[order[start]]), group


def _every_other(at: Places, following: Places) -> Places:
    """Of places that overlap (in a a a the first two or the last two merge) the first, the third …, in each run."""
    index = np.arange(len(at))
    starts_run = np.concatenate([[True], following[at[:-1]] != at[1:]])[: len(at)]
    first = np.maximum.accumulate(np.where(starts_run, index, 0))
    kept: Places = at[(index - first) % 2 == 0]
    return kept
