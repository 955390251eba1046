"""Splitting, counting words and encoding, compiled by numba.

They stand in one file because numba's disk cache watches the file of a compiled function and not those of the functions it calls.
Text is UTF-8 bytes throughout. Word tables are open-addressed: the key of a word of up to 15 bytes *is* its bytes, in two 64-bit numbers; a longer
one has a hash as its key and its bytes are compared. Kernels never grow an array: they stop where room ends and the caller, ``bpe_fast``, goes on.
"""

# mypy: ignore-errors
# ruff: noqa: PLR1714 (numba compiles comparisons better than sets)

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

LETTER, NUMBER, SPACE, LINE_END = 1, 2, 3, 4  # as in split.py; 0 is any other sign
SHORT = 15  # longest word whose key holds its bytes
BLANK, QUOTE = 32, 39
DEAD = -1


def compiled(function: Callable[..., Any]) -> Any:
    """``function`` as machine code, kept on disk beside the source or in the user's cache; in memory only where neither can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """``function`` copied into every compiled function that calls it: a call counts references to each array, which costs more than these bodies."""
    return njit(inline="always")(function)


# ── splitting ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def class_at(data, i, classes):
    """The class of the character at byte ``i`` plus 8 × its length in bytes."""
    b = np.int64(data[i])
    if b < 0x80:
        return np.int64(classes[b]) + 8
    if b < 0xE0:
        return np.int64(classes[(b & 0x1F) << 6 | np.int64(data[i + 1]) & 0x3F]) + 16
    if b < 0xF0:
        return np.int64(classes[(b & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | np.int64(data[i + 2]) & 0x3F]) + 24
    point = (b & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12 | (np.int64(data[i + 2]) & 0x3F) << 6 | np.int64(data[i + 3]) & 0x3F
    return np.int64(classes[point]) + 32


@inlined
def run_end(data, i, n, classes, kind):
    """The end of the run of characters of class ``kind`` that starts at ``i``."""
    while i < n:
        b = data[i]
        if b < 0x80:
            if classes[b] != kind:
                return i
            i += 1
        else:
            c = class_at(data, i, classes)
            if c & 7 != kind:
                return i
            i += c >> 3
    return i


@inlined
def contraction_end(data, i, n, any_case):
    """The end of ``'s 'd 'm 't 'll 've 're`` at the quote ``i``, or ``i`` when there is none."""
    if i + 1 >= n:
        return i
    a = data[i + 1]
    b = data[i + 2] if i + 2 < n else np.uint8(0)
    if any_case:
        if a == 0xC5 and b == 0xBF:  # ſ, the long s: lower-cases to itself and upper-cases to S
            return i + 3
        if 65 <= a <= 90:
            a += np.uint8(32)
        if 65 <= b <= 90:
            b += np.uint8(32)
    if a == 115 or a == 100 or a == 109 or a == 116:
        return i + 2
    if (a == 108 and b == 108) or (a == 118 and b == 101) or (a == 114 and b == 101):
        return i + 3
    return i


@inlined
def space_end(data, i, n, classes, line_ends):
    """The end of the word that white space at ``i`` makes: all of it at the end of the text; else up to its last line end
    (``line_ends``); else all but its last character, which belongs to the next word."""
    end, last, after_line_end, count = i, i, i, 0
    while end < n:
        c = class_at(data, end, classes)
        if c & 7 < SPACE:
            break
        last = end
        count += 1
        end += c >> 3
        if c & 7 == LINE_END:
            after_line_end = end
    if end == n or count == 1:
        return end
    if line_ends and after_line_end > i:
        return after_line_end
    return last


@compiled
def word_end(data, i, n, classes, gpt4):
    """The end of the word that starts at byte ``i``, by the alternatives of the pattern in their order."""
    if data[i] == QUOTE:
        end = contraction_end(data, i, n, gpt4)
        if end > i:
            return end
    c = class_at(data, i, classes)
    kind, following = c & 7, i + (c >> 3)
    if gpt4:
        if kind == LETTER:
            return run_end(data, following, n, classes, LETTER)
        if kind == NUMBER:
            for _ in range(2):
                if following < n:
                    c = class_at(data, following, classes)
                    if c & 7 == NUMBER:
                        following += c >> 3
            return following
        if kind != LINE_END and following < n and class_at(data, following, classes) & 7 == LETTER:
            return run_end(data, following, n, classes, LETTER)
    if data[i] == BLANK and following < n:
        c = class_at(data, following, classes)
        if c & 7 == 0 or (c & 7 < SPACE and not gpt4):
            kind, following = c & 7, following + (c >> 3)
    if kind >= SPACE:
        return space_end(data, i, n, classes, gpt4)
    end = run_end(data, following, n, classes, kind)
    return run_end(data, end, n, classes, LINE_END) if gpt4 else end


@compiled
def split_ends(data, classes, gpt4, ends):
    """Write the end of every word into ``ends`` (room for one per byte); returns how many there are."""
    i, n, count = 0, len(data), 0
    while i < n:
        i = word_end(data, i, n, classes, gpt4)
        ends[count] = i
        count += 1
    return count


# ── a table of words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@inlined
def word_key(data, i, end):
    """Two 64-bit numbers: the bytes themselves and the length (short words), or a hash and a mark (long ones)."""
    low, high, length = np.uint64(0), np.uint64(0), end - i
    if length <= 8:
        for k in range(length):
            low |= np.uint64(data[i + k]) << np.uint64(8 * k)
    elif length <= SHORT:
        for k in range(8):
            low |= np.uint64(data[i + k]) << np.uint64(8 * k)
        for k in range(8, length):
            high |= np.uint64(data[i + k]) << np.uint64(8 * (k - 8))
    else:
        for k in range(i, end):
            low = (low ^ np.uint64(data[k])) * np.uint64(0x9E3779B97F4A7C15)
            low ^= low >> np.uint64(29)
        return low, np.uint64(0xFF) << np.uint64(56) | np.uint64(length)
    return low, high | np.uint64(length) << np.uint64(56)


@inlined
def first_slot(low, high, mask):
    """Where the search for a key begins."""
    h = (low ^ (high * np.uint64(0xC2B2AE3D27D4EB4F))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(h >> np.uint64(32)) & mask


@inlined
def find_word(data, i, end, low, high, table, starts, arena):
    """The slot of the word, or the free slot where it belongs. A slot is [key, key, number of the word + 1 or 0 where it is free, what is kept]."""
    mask = len(table) - 1
    slot = first_slot(low, high, mask)
    while table[slot, 2] != 0:
        if table[slot, 0] == low and table[slot, 1] == high:
            if end - i <= SHORT:
                return slot
            at = starts[np.int64(table[slot, 2]) - 1]
            same = True
            for k in range(end - i):
                if arena[at + k] != data[i + k]:
                    same = False
                    break
            if same:
                return slot
        slot = (slot + 1) & mask
    return slot


@compiled
def count_words(data, i, classes, gpt4, table, starts, arena, used):
    """Count the words of ``data`` from byte ``i``; a slot keeps its word's count; ``used`` = [words, arena bytes].

    Stops where the table is half full; returns the byte reached.
    """
    n, words, top = len(data), used[0], used[1]
    room = len(table) // 2
    while i < n and words < room:
        end = word_end(data, i, n, classes, gpt4)
        low, high = word_key(data, i, end)
        slot = find_word(data, i, end, low, high, table, starts, arena)
        if table[slot, 2] == 0:
            for k in range(i, end):
                arena[top] = data[k]
                top += 1
            words += 1
            starts[words] = top
            table[slot, 0], table[slot, 1], table[slot, 2], table[slot, 3] = low, high, np.uint64(words), np.uint64(0)
        table[slot, 3] += np.uint64(1)
        i = end
    used[0], used[1] = words, top
    return i


@compiled
def refill(old, table):
    """Copy all slots in use into an empty, larger table."""
    mask = len(table) - 1
    for k in range(len(old)):
        if old[k, 2] != 0:
            slot = first_slot(old[k, 0], old[k, 1], mask)
            while table[slot, 2] != 0:
                slot = (slot + 1) & mask
            table[slot, :] = old[k, :]


@compiled
def read_counts(table, counts):
    """Write each word's count at its number."""
    for k in range(len(table)):
        if table[k, 2] != 0:
            counts[np.int64(table[k, 2]) - 1] = np.int64(table[k, 3])


# ── encoding ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

NO_MERGE = 0x7FFFFFFF
SCAN = 48  # up to this many symbols a scan for the lowest rank beats a heap


@compiled
def new_id(a, b, table_keys, table):
    """The id that the pair merges into, or NO_MERGE. Ids of merges rise with their rank."""
    key, mask = np.int64(a) << 32 | np.int64(b), len(table) - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while table[slot] >= 0:
        if table_keys[slot] == key:
            return table[slot]
        slot = (slot + 1) & mask
    return NO_MERGE


@compiled
def fill_merges(merges, table_keys, table):
    """Enter the merges (left id × 2³² + right id, by rank) into an empty table that ``new_id`` reads."""
    mask = len(table) - 1
    for rank in range(len(merges)):
        slot = np.int64((np.uint64(merges[rank]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table_keys[slot], table[slot] = merges[rank], 256 + rank


@compiled
def encode_by_scan(ids, ranks, n, table_keys, table):
    """Merge the lowest rank, leftmost first, until none is left; in place. Returns how many ids remain."""
    for k in range(n - 1):
        ranks[k] = new_id(ids[k], ids[k + 1], table_keys, table)
    while n > 1:
        best = 0
        for k in range(1, n - 1):
            if ranks[k] < ranks[best]:
                best = k
        if ranks[best] == NO_MERGE:
            break
        ids[best] = ranks[best]
        for k in range(best + 1, n - 1):
            ids[k] = ids[k + 1]
            ranks[k - 1] = ranks[k]
        n -= 1
        if best + 1 < n:
            ranks[best] = new_id(ids[best], ids[best + 1], table_keys, table)
        if best > 0:
            ranks[best - 1] = new_id(ids[best - 1], ids[best], table_keys, table)
    return n


@compiled
def encode_by_heap(ids, n, table_keys, table):
    """As ``encode_by_scan`` in n log n: a heap of (rank, place) over a linked list. In place; returns how many ids remain."""
    following, previous = np.empty(n, np.int64), np.empty(n, np.int64)
    heap, size = np.empty(3 * n, np.int64), 0
    for k in range(n):
        previous[k], following[k] = k - 1, k + 1 if k + 1 < n else DEAD
    for k in range(n - 1):
        rank = new_id(ids[k], ids[k + 1], table_keys, table)
        if rank != NO_MERGE:
            size = sift_up(heap, size, np.int64(rank) << 32 | np.int64(k))
    while size > 0:
        rank, k = heap[0] >> 32, heap[0] & 0xFFFFFFFF
        size = drop_top(heap, size)
        j = following[k]
        if ids[k] == DEAD or j == DEAD or new_id(ids[k], ids[j], table_keys, table) != rank:
            continue
        ids[k], ids[j] = rank, DEAD
        following[k] = following[j]
        if following[k] != DEAD:
            previous[following[k]] = k
            rank = new_id(ids[k], ids[following[k]], table_keys, table)
            if rank != NO_MERGE:
                size = sift_up(heap, size, np.int64(rank) << 32 | np.int64(k))
        if previous[k] != DEAD:
            rank = new_id(ids[previous[k]], ids[k], table_keys, table)
            if rank != NO_MERGE:
                size = sift_up(heap, size, np.int64(rank) << 32 | np.int64(previous[k]))
    count, k = 0, np.int64(0)
    while k != DEAD:
        ids[count] = ids[k]
        count += 1
        k = following[k]
    return count


@compiled
def sift_up(heap, size, item):
    """Add ``item``; returns the new size."""
    at = size
    while at > 0 and heap[(at - 1) >> 1] > item:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = item
    return size + 1


@compiled
def drop_top(heap, size):
    """Remove the smallest item; returns the new size."""
    size -= 1
    item, at = heap[size], 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item
    return size


@compiled
def encode_text(data, i, classes, gpt4, id_of_byte, merge_keys, merges, table, starts, arena, spelled, spelling, used, out, at):
    """Write the ids of ``data`` from byte ``i`` into ``out`` from ``at``; words met before are copied from the table.

    A slot keeps the id + 1 of a word that is one token, else 0: the ids of word w are then ``spelling[spelled[w] : spelled[w + 1]]``.
    ``used`` = [words, arena bytes]. Stops where the table is full; returns (byte reached, ids written).
    """
    n, words, top = len(data), used[0], used[1]
    room = len(table) // 2
    scratch, ranks = np.empty(SCAN, np.int32), np.empty(SCAN, np.int32)
    while i < n:
        end = word_end(data, i, n, classes, gpt4)
        low, high = word_key(data, i, end)
        slot = find_word(data, i, end, low, high, table, starts, arena)
        if table[slot, 3] != 0:
            out[at] = np.int64(table[slot, 3]) - 1
            at += 1
            i = end
            continue
        w = np.int64(table[slot, 2]) - 1
        if w >= 0:
            for k in range(spelled[w], spelled[w + 1]):
                out[at] = spelling[k]
                at += 1
            i = end
            continue
        length = end - i
        ids = scratch if length <= SCAN else np.empty(length, np.int32)
        for k in range(length):
            ids[k] = id_of_byte[data[i + k]]
        count = encode_by_scan(ids, ranks, length, merge_keys, merges) if length <= SCAN else encode_by_heap(ids, length, merge_keys, merges)
        if length <= len(arena) // 16:  # a giant would push out all others
            if words == room or top + length > len(arena):
                break
            first = spelled[words]
            for k in range(length):
                arena[top + k] = data[i + k]
            for k in range(count):
                spelling[first + k] = ids[k]
            top += length
            words += 1
            starts[words], spelled[words] = top, first + count
            table[slot, 0], table[slot, 1], table[slot, 2] = low, high, np.uint64(words)
            table[slot, 3] = np.uint64(ids[0] + 1) if count == 1 else np.uint64(0)
        for k in range(count):
            out[at] = ids[k]
            at += 1
        i = end
    used[0], used[1] = words, top
    return i, at
