"""Attention of single tokens over keys and values that lie in pages: one query a row, each row with its own pages.

``place`` writes the newest keys and values there, ``paged_attend`` reads them all.

A row's head adds over its positions in order, so the result has the same bits whoever else is in the batch, whatever the page size and the number of threads.
Pages hold float32, or bfloat16 as ``uint16``; scores and sums are float32. NaN and infinity come through.
"""

# mypy: ignore-errors

import math

import numpy as np
from numba import prange

from underhood.kernels.matvec import exp, normalise, products
from underhood.kernels.simd import SUMS, add_rows, compiled, inner


@compiled(parallel=True)
def paged_attend(q, keys, values, table, lengths, out, window, threads):
    """out (N, H, D) ← softmax(q kᵀ/√D) v, for the first ``lengths[n]`` positions of row n.

    q (N, H, D) float32; keys and values (blocks, block, G, D); table (N, pages) int64: the block of each page of row n. Head h reads head h // (H/G).
    With ``window`` > 0 only the last so many positions are seen.
    """
    groups = keys.shape[2]
    if threads == 1:
        for task in range(q.shape[0] * groups):
            row, group = task // groups, task % groups
            attend_group(q, keys, values, table[row], lengths[row], out, window, row, group)
    else:
        for task in prange(q.shape[0] * groups):
            row, group = task // groups, task % groups
            attend_group(q, keys, values, table[row], lengths[row], out, window, row, group)


@inner()
def attend_group(q, keys, values, pages, length, out, window, row, group):
    """The heads of one row that share the keys of ``group``."""
    share, start = q.shape[1] // keys.shape[2], max(0, length - window) if window > 0 else 0
    first = group * share
    scores = np.empty((share, length - start), np.float32)
    score(q[row, first : first + share], keys, pages, group, start, scores)
    for head in range(share):
        softmax(scores[head])
    mix(values, pages, group, start, scores, out[row, first : first + share])


@inner()
def score(q, keys, pages, group, start, scores):
    """scores[h, j] = q[h] · key of position start + j, / √D."""
    block, end = keys.shape[1], start + scores.shape[1]
    for page in range(start // block, (end - 1) // block + 1):
        first, last = max(start, page * block), min(end, (page + 1) * block)
        products(q, keys[pages[page], :, group], scores[:, first - start :], first - page * block, last - page * block)
    scores *= np.float32(1 / math.sqrt(q.shape[1]))


@inner(fastmath=SUMS)
def softmax(scores):
    """scores ← e^(score - highest) / their sum."""
    highest, total = scores[0], np.float32(0)
    for j in range(scores.shape[0]):
        highest = max(highest, scores[j])
    for j in range(scores.shape[0]):
        scores[j] = exp(scores[j] - highest)
        total += scores[j]
    for j in range(scores.shape[0]):
        scores[j] /= total


@inner()
def mix(values, pages, group, start, weights, out):
    """out[h] = Σ weights[h, j] · value of position start + j, in order."""
    block, end = values.shape[1], start + weights.shape[1]
    out[:] = 0
    for page in range(start // block, (end - 1) // block + 1):
        first, last = max(start, page * block), min(end, (page + 1) * block)
        for head in range(out.shape[0]):
            add_rows(weights, values[pages[page], :, group], out, head, first - start, first - page * block, last - page * block)


@compiled()
def place(qkv, q, keys, values, table, at, cos, sin, normed, query_gain, key_gain, epsilon):
    """From rows of H queries, G keys and G values side by side: the queries into q (N, H, D), the rest into the pages, at each row's position.

    Before that queries and keys are normalised (``normed``), with gains where these are not empty, and turned by their position's angles where ``cos`` and
    ``sin`` (context, D/2) are not empty.
    """
    N, H, D = q.shape
    G, size, none = keys.shape[2], keys.shape[1], query_gain[:0]
    new = qkv.reshape(N, H + 2 * G, D)
    for n in range(N):
        queries, new_keys, block, slot = new[n, :H], new[n, H : H + G], table[n, at[n] // size], at[n] % size
        if normed:
            normalise(queries, queries, query_gain, none, False, epsilon)
            normalise(new_keys, new_keys, key_gain, none, False, epsilon)
        if cos.shape[0]:
            turn(new[n, : H + G], cos[at[n]], sin[at[n]])
        q[n], keys[block, slot], values[block, slot] = queries, new_keys, new[n, H + G :]


@inner()
def turn(heads, cos, sin):
    """Turn the pairs (i, i + D/2) of each head."""
    half = cos.shape[0]
    for h in range(heads.shape[0]):
        for i in range(half):
            first, second = heads[h, i], heads[h, i + half]
            heads[h, i], heads[h, i + half] = first * cos[i] - second * sin[i], second * cos[i] + first * sin[i]
