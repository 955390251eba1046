"""Learning merges, compiled by numba: every count of a pair is kept up to date instead of being counted again.

All words lie in one row of symbols, each linked to its neighbours inside its word. A pair keeps its count and the list of the places where it stands;
a merge visits those places only, takes away the pairs that it destroys and enters those that arise. The pair to merge next is the top of a heap
whose entries may be stale: counts of existing pairs only fall, so an entry that is too high is put back with its true count.
Kernels never grow an array: they stop where room ends and the caller, ``bpe_fast``, goes on.
"""

# mypy: ignore-errors

import numpy as np

from underhood.text.compiled_encode import compiled

DEAD = -1


@compiled
def pair_slot(key, table_keys, table):
    """The slot of a pair (left id × 2³² + right id), or the free slot where it belongs."""
    mask = len(table) - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while table[slot] >= 0 and table_keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def before(count, key, other_count, other_key):
    """Does the first pair merge before the other: higher count, then smaller (left id, right id)?"""
    return count > other_count or (count == other_count and key < other_key)


@compiled
def heap_push(heap_counts, heap_pairs, size, count, pair, pair_keys):
    """Add an entry to the heap of ``size`` entries."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if not before(count, pair_keys[pair], heap_counts[parent], pair_keys[heap_pairs[parent]]):
            break
        heap_counts[at], heap_pairs[at] = heap_counts[parent], heap_pairs[parent]
        at = parent
    heap_counts[at], heap_pairs[at] = count, pair


@compiled
def heap_settle(heap_counts, heap_pairs, size, count, pair, pair_keys):
    """Replace the top of the heap by an entry and let it sink to its place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and before(heap_counts[child + 1], pair_keys[heap_pairs[child + 1]], heap_counts[child], pair_keys[heap_pairs[child]]):
            child += 1
        if not before(heap_counts[child], pair_keys[heap_pairs[child]], count, pair_keys[pair]):
            break
        heap_counts[at], heap_pairs[at] = heap_counts[child], heap_pairs[child]
        at = child
    heap_counts[at], heap_pairs[at] = count, pair


@compiled
def lay_out(arena, starts, words, id_of_byte, symbols, left, right, word_of):
    """Write all words as one row of symbols, each linked to its neighbours inside the word."""
    for w in range(words):
        for i in range(starts[w], starts[w + 1]):
            symbols[i] = id_of_byte[arena[i]]
            word_of[i] = w
            left[i] = i - 1 if i > starts[w] else DEAD
            right[i] = i + 1 if i + 1 < starts[w + 1] else DEAD


@compiled
def first_pairs(symbols, right, word_of, counts, places, pair_keys, pair_counts, pair_first, pair_length, table_keys, table):
    """Count the pairs of bytes and list where each stands; returns (pairs, places used)."""
    count, length, number = np.zeros(65536, np.int64), np.zeros(65536, np.int64), np.full(65536, DEAD, np.int64)
    for i in range(len(symbols)):
        if right[i] != DEAD:
            p = symbols[i] << 8 | symbols[right[i]]
            count[p] += counts[word_of[i]]
            length[p] += 1
    pairs, top = 0, 0
    for p in range(65536):
        if length[p]:
            key = np.int64(p >> 8) << 32 | np.int64(p & 255)
            number[p] = pairs
            pair_keys[pairs], pair_counts[pairs], pair_first[pairs], pair_length[pairs] = key, count[p], top, 0
            slot = pair_slot(key, table_keys, table)
            table_keys[slot], table[slot] = key, pairs
            top += length[p]
            pairs += 1
    for i in range(len(symbols)):
        if right[i] != DEAD:
            p = number[symbols[i] << 8 | symbols[right[i]]]
            places[pair_first[p] + pair_length[p]] = i
            pair_length[p] += 1
    return pairs, top


@compiled
def first_heap(pairs, pair_counts, pair_keys, heap_counts, heap_pairs):
    """Enter all pairs; returns how many entries there are."""
    for p in range(pairs):
        heap_push(heap_counts, heap_pairs, p, pair_counts[p], p, pair_keys)
    return pairs


@compiled
def refill_pairs(pairs, pair_keys, table_keys, table):
    """Enter the first ``pairs`` pairs into an empty, larger table."""
    for p in range(pairs):
        slot = pair_slot(pair_keys[p], table_keys, table)
        table_keys[slot], table[slot] = pair_keys[p], p


@compiled
def take_away(a, b, weight, pair_counts, table_keys, table):
    """One occurrence of (a, b), in a word seen ``weight`` times, is gone."""
    slot = pair_slot(np.int64(a) << 32 | np.int64(b), table_keys, table)
    pair_counts[table[slot]] -= weight


@compiled
def merge_everywhere(pair, new, symbols, left, right, word_of, counts, places, pair_keys, pair_counts, pair_first, pair_length,
                     table_keys, table, gained, met, touched, news_place, news_pair):  # fmt: skip
    """Merge one pair into ``new`` at all its places; note the pairs that arise. Returns (pairs touched, notes).

    A pair that arises has ``new`` on one side, so its other side names it: 2 × id for (id, new), 2 × id + 1 for (new, id).
    """
    a, b = np.int32(pair_keys[pair] >> 32), np.int32(pair_keys[pair] & 0xFFFFFFFF)
    n_touched, notes = 0, 0
    for t in range(pair_first[pair], pair_first[pair] + pair_length[pair]):
        i = places[t]
        if symbols[i] != a or right[i] == DEAD or symbols[right[i]] != b:
            continue  # merged away since it was listed
        weight = counts[word_of[i]]
        j = right[i]
        before_i, after_j = left[i], right[j]
        if before_i != DEAD:
            s = symbols[before_i]
            if s == new:
                gained[2 * a + 1] -= weight  # this (new, a) was noted a moment ago; it becomes (new, new)
            else:
                take_away(s, a, weight, pair_counts, table_keys, table)
            name = 2 * s
            if met[name] == 0:
                touched[n_touched] = name
                n_touched += 1
            gained[name] += weight
            met[name] += 1
            news_place[notes], news_pair[notes] = before_i, name
            notes += 1
        if after_j != DEAD:
            s = symbols[after_j]
            take_away(b, s, weight, pair_counts, table_keys, table)
            name = 2 * s + 1
            if met[name] == 0:
                touched[n_touched] = name
                n_touched += 1
            gained[name] += weight
            met[name] += 1
            news_place[notes], news_pair[notes] = i, name
            notes += 1
            left[after_j] = i
        symbols[i], symbols[j], right[i] = new, DEAD, after_j
    return n_touched, notes


@compiled
def enter_new_pairs(new, n_touched, notes, gained, met, touched, news_place, news_pair, places, top, pairs,
                    pair_keys, pair_counts, pair_first, pair_length, table_keys, table):  # fmt: skip
    """Give each pair that arose its number, count and list of places (left to right); returns (pairs, places used)."""
    for t in range(n_touched):
        name = touched[t]
        other = np.int64(name >> 1)
        if gained[name] <= 0:
            met[name] = DEAD
            continue
        key = np.int64(new) << 32 | other if name & 1 else other << 32 | np.int64(new)
        pair_keys[pairs], pair_counts[pairs], pair_first[pairs], pair_length[pairs] = key, gained[name], top, 0
        slot = pair_slot(key, table_keys, table)
        table_keys[slot], table[slot] = key, pairs
        top += met[name]
        met[name] = pairs
        pairs += 1
    for t in range(notes):
        p = met[news_pair[t]]
        if p != DEAD:
            places[pair_first[p] + pair_length[p]] = news_place[t]
            pair_length[p] += 1
    for t in range(n_touched):
        gained[touched[t]] = 0
        met[touched[t]] = 0
    return pairs, top


@compiled
def learn(merges, done, until, symbols, left, right, word_of, counts, places, pair_keys, pair_counts, pair_first, pair_length,
          table_keys, table, heap_counts, heap_pairs, gained, met, touched, news_place, news_pair, sizes):  # fmt: skip
    """Learn merges ``done`` … ``until``; ``sizes`` = [pairs, places used, heap entries]. Stops early where the table of pairs is half full
    or no pair is left (the heap is then empty); returns the merges known."""
    pairs, top, size = sizes[0], sizes[1], sizes[2]
    while done < until and size > 0:
        pair = heap_pairs[0]
        count = pair_counts[pair]
        if count != heap_counts[0] or count <= 0:  # stale: its count has fallen since
            if count > 0:
                heap_settle(heap_counts, heap_pairs, size, count, pair, pair_keys)
            else:
                size -= 1
                heap_settle(heap_counts, heap_pairs, size, heap_counts[size], heap_pairs[size], pair_keys)
            continue
        if pairs + min(2 * pair_length[pair], len(gained)) >= len(pair_counts):
            break
        size -= 1
        heap_settle(heap_counts, heap_pairs, size, heap_counts[size], heap_pairs[size], pair_keys)
        new = 256 + done
        n_touched, notes = merge_everywhere(
            pair, new, symbols, left, right, word_of, counts, places, pair_keys, pair_counts, pair_first, pair_length,
            table_keys, table, gained, met, touched, news_place, news_pair)  # fmt: skip
        old = pairs
        pairs, top = enter_new_pairs(
            new, n_touched, notes, gained, met, touched, news_place, news_pair, places, top, pairs,
            pair_keys, pair_counts, pair_first, pair_length, table_keys, table)  # fmt: skip
        for p in range(old, pairs):
            heap_push(heap_counts, heap_pairs, size, pair_counts[p], p, pair_keys)
            size += 1
        merges[done] = pair_keys[pair]
        done += 1
    sizes[0], sizes[1], sizes[2] = pairs, top, size
    return done
