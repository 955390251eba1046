"""One pre-norm block of a decoder for a few tokens, compiled: norm, attention over pages, norm, feed-forward, added in place to the residual stream."""

# mypy: ignore-errors

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from underhood.kernels.matvec import ADD, IDENTITY, SET, normalise, project, project_gated, project_qkv
from underhood.kernels.paged import paged_attend
from underhood.kernels.simd import compiled

Array = np.ndarray[Any, Any]


class Weights(NamedTuple):
    """A block's numbers: matrices (outputs, inputs) float32 or bfloat16 as ``uint16``, vectors float32; what a block has not is empty."""

    gain1: Array
    shift1: Array
    query: Array  # (H D, C)
    query_bias: Array
    key: Array  # (G D, C)
    key_bias: Array
    value: Array  # (G D, C)
    value_bias: Array
    query_gain: Array  # (D): of the norm of each head
    key_gain: Array
    output: Array  # (C, H D)
    output_bias: Array
    gain2: Array
    shift2: Array
    gate: Array  # (F, C); empty: f(x Uᵀ) without a gate
    gate_bias: Array
    up: Array  # (F, C)
    up_bias: Array
    down: Array  # (C, F)
    down_bias: Array


class Parts(NamedTuple):
    """How a block computes."""

    head_width: int
    centred: bool  # layer norm, not RMS norm
    epsilon: float
    qk_norm: bool
    qk_epsilon: float
    activation: int  # one of ``matvec``'s
    window: int  # 0: none


@compiled()
def block(x, w, p, cos, sin, at, table, keys, values, threads):
    """x (N, C) ← x + attention(norm(x)), then x + feedforward(norm(x)).

    Token n stands at position ``at[n]``; its key and value are written into page ``at[n] // block`` of ``table[n]``, and it attends to all up to itself.
    ``cos`` and ``sin`` (context, D/2) turn queries and keys; empty ones do not.
    """
    N, D = x.shape[0], p.head_width
    normed, q, k = np.empty_like(x), empty(N, w.query), empty(N, w.key)
    v, mixed = np.empty_like(k), np.empty_like(q)
    normalise(x, normed, w.gain1, w.shift1, p.centred, p.epsilon)
    project_qkv(normed, w.query, w.query_bias, w.key, w.key_bias, w.value, w.value_bias, q, k, v, threads)
    queries, new_keys, new_values = heads(q, D), heads(k, D), heads(v, D)
    if p.qk_norm:
        normalise(q.reshape(-1, D), q.reshape(-1, D), w.query_gain, w.query_bias[:0], False, p.qk_epsilon)
        normalise(k.reshape(-1, D), k.reshape(-1, D), w.key_gain, w.key_bias[:0], False, p.qk_epsilon)
    if cos.shape[0]:
        turn(queries, cos, sin, at)
        turn(new_keys, cos, sin, at)
    keep(new_keys, keys, table, at)
    keep(new_values, values, table, at)
    paged_attend(queries, keys, values, table, at + 1, heads(mixed, D), p.window)
    project(mixed, w.output, w.output_bias, x, IDENTITY, ADD, threads)
    normalise(x, normed, w.gain2, w.shift2, p.centred, p.epsilon)
    inner = empty(N, w.up)
    if w.gate.shape[0]:
        project_gated(normed, w.gate, w.gate_bias, w.up, w.up_bias, inner, p.activation, threads)
    else:
        project(normed, w.up, w.up_bias, inner, p.activation, SET, threads)
    project(inner, w.down, w.down_bias, x, IDENTITY, ADD, threads)


@njit
def empty(rows, weight):
    """Room for the outputs of ``weight``."""
    return np.empty((rows, weight.shape[0]), np.float32)


@njit
def heads(x, width):
    """(N, H D) seen as (N, H, D)."""
    return x.reshape(x.shape[0], x.shape[1] // width, width)


@njit
def turn(x, cos, sin, at):
    """Turn the pairs (i, i + D/2) of every head by their positions' angles."""
    half = cos.shape[1]
    for n in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(half):
                first, second = x[n, h, i], x[n, h, i + half]
                c, s = cos[at[n], i], sin[at[n], i]
                x[n, h, i], x[n, h, i + half] = first * c - second * s, second * c + first * s


@njit
def keep(new, pool, table, at):
    """Write each token's heads into its page."""
    block = pool.shape[1]
    for n in range(new.shape[0]):
        pool[table[n, at[n] // block], at[n] % block] = new[n]
