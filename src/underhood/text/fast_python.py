"""The fast tokenizer in plain Python: pair counts kept up to date, words encoded once. Used where numba is absent and for short texts."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import regex  # type: ignore[import-untyped]

from underhood.text.alphabet import byte_ids, utf8, well_formed
from underhood.text.bpe import count_pairs, count_words, merge
from underhood.text.split import expression
from underhood.text.vocabulary import Pair

SCAN = 32  # up to this many symbols a scan for the lowest rank beats lists of places
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
        if progress and len(merges) % 256 == 0:
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
        ids = byte_ids(utf8(word))
        found = encode_by_scan(ids, self.new_ids) if len(ids) <= SCAN else encode_by_places(ids, self.new_ids)
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


def encode_by_places(ids: list[int], new_ids: dict[Pair, int]) -> list[int]:
    """As ``encode_by_scan`` for long words: all places of one rank are merged in one go, from left to right.

    That is the same order: a merge makes pairs of higher rank only, because its token has to exist before they can be learned.
    """
    n = len(ids)
    following, previous = list(range(1, n + 1)), list(range(-1, n - 1))  # n stands for the end
    places: defaultdict[int, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairwise(ids)):
        if pair in new_ids:
            places[new_ids[pair]].append(i)
    waiting = list(places)
    heapq.heapify(waiting)
    while waiting:
        new = heapq.heappop(waiting)
        for i in sorted(places.pop(new)):
            j = following[i]
            if j == n or new_ids.get((ids[i], ids[j])) != new:
                continue  # merged away since it was listed
            ids[i], ids[j], after = new, -1, following[j]
            following[i] = after
            if after < n:
                previous[after] = i
                _list_place(new_ids.get((new, ids[after])), i, places, waiting)
            if previous[i] >= 0:
                _list_place(new_ids.get((ids[previous[i]], new)), previous[i], places, waiting)
    return [i for i in ids if i >= 0]


def _list_place(rank: int | None, place: int, places: defaultdict[int, list[int]], waiting: list[int]) -> None:
    if rank is not None:
        if rank not in places:
            heapq.heappush(waiting, rank)
        places[rank].append(place)
