"""One pre-norm block of a decoder for a few tokens, kernel by kernel: norm, attention over pages, norm, feed-forward, added in place to the residual stream."""

from typing import Any, NamedTuple

import numpy as np

from underhood.kernels.matvec import ADD, IDENTITY, MULTIPLY, SET, normalise, project
from underhood.kernels.paged import paged_attend, place

Array = np.ndarray[Any, Any]
NONE: Array = np.empty(0, np.float32)  # a vector that a layer has not


class Linear(NamedTuple):
    """A matrix (outputs, inputs), float32 or bfloat16 as ``uint16``, and a bias, float32."""

    weight: Array
    bias: Array


class Norm(NamedTuple):
    """Layer norm (``centred``) or RMS norm."""

    gain: Array
    shift: Array
    centred: bool
    epsilon: float

    def __call__(self, x: Array, out: Array) -> None:
        """out ← x, normalised."""
        normalise(x, out, *self)


class HeadNorm(NamedTuple):
    """The norm of each head's queries and keys, where ``used``; ``place`` takes it apart."""

    used: bool
    query_gain: Array
    key_gain: Array
    epsilon: float


class Layer(NamedTuple):
    """A block's weights and how it computes."""

    norm1: Norm
    qkv: tuple[Linear, ...]  # one matrix for H queries, G keys and G values, or three
    head_norm: HeadNorm
    kv_heads: int  # G
    head_width: int  # D
    window: int  # 0: none
    output: Linear
    norm2: Norm
    gate: Linear | None  # without it the activation acts on ``up``
    up: Linear
    down: Linear
    activation: int  # one of ``matvec``'s

    def run(self, x: Array, at: Array, table: Array, keys: Array, values: Array, turning: tuple[Array, Array], threads: int) -> None:
        """x (N, C) ← x + attention(norm(x)), then x + feedforward(norm(x)).

        Token n stands at position ``at[n]``; its key and value are written into page ``at[n] // block`` of ``table[n]``, and it attends to all up to itself.
        ``turning`` has cosines and sines (context, D/2), or nothing.
        """
        normed = np.empty_like(x)
        self.norm1(x, normed)
        mixed = self._attend(normed, at, table, keys, values, turning, threads)
        project(mixed, *self.output, x, 0, IDENTITY, ADD, threads)
        self.norm2(x, normed)
        project(self._inner(normed, threads), *self.down, x, 0, IDENTITY, ADD, threads)

    def _attend(self, x: Array, at: Array, table: Array, keys: Array, values: Array, turning: tuple[Array, Array], threads: int) -> Array:
        """What each head mixed, side by side."""
        N, D = len(x), self.head_width
        qkv, column = np.empty((N, sum(len(part.weight) for part in self.qkv)), np.float32), 0
        for part in self.qkv:
            project(x, *part, qkv, column, IDENTITY, SET, threads)
            column += len(part.weight)
        q = np.empty((N, column // D - 2 * self.kv_heads, D), np.float32)
        place(qkv, q, keys, values, table, at, *turning, *self.head_norm)
        mixed = np.empty_like(q)
        paged_attend(q, keys, values, table, at + 1, mixed, self.window, threads)
        return mixed.reshape(N, -1)

    def _inner(self, x: Array, threads: int) -> Array:
        """The feed-forward layer between its matrices."""
        inner = np.empty((len(x), len(self.up.weight)), np.float32)
        if self.gate is None:
            project(x, *self.up, inner, 0, self.activation, SET, threads)
        else:
            project(x, *self.gate, inner, 0, self.activation, SET, threads)
            project(x, *self.up, inner, 0, IDENTITY, MULTIPLY, threads)
        return inner
