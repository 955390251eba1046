"""Which windows of a long text make the next batch, and the batch itself.

Three orders, one interface: ``next()`` gives the starts of the next batch's windows, ``state()`` and ``load_state()`` resume exactly.
Each order is a function of (seed, how far we are), so the state is a number or two and nothing is held per window.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from underhood.base.errors import DataError
from underhood.base.rng import stream_seed

Starts = NDArray[np.int64]


class Sampler(Protocol):
    """Gives the starts of windows, a batch at a time."""

    def next(self) -> Starts: ...

    def state(self) -> dict[str, int]: ...

    def load_state(self, state: Mapping[str, int]) -> None: ...


def _check(n_tokens: int, context: int, batch_size: int) -> None:
    if context < 1 or batch_size < 1:
        raise DataError(f"context {context}, batch size {batch_size}", expected="1 or more")
    if n_tokens < context + 1:
        remedy = f"Give a longer text or a context of at most {n_tokens - 1}." if n_tokens > 1 else "Give a longer text."
        raise DataError(f"{n_tokens} tokens", expected=f"at least {context + 1} for a context of {context}", remedy=remedy)


class SequentialSampler:
    """The windows side by side, in order, from the start again after the last whole one."""

    def __init__(self, n_tokens: int, context: int, batch_size: int) -> None:
        _check(n_tokens, context, batch_size)
        self.context, self.batch_size = context, batch_size
        self.windows = (n_tokens - 1) // context  # each needs one token more, as its last target
        self.position = 0

    def next(self) -> Starts:
        order = np.arange(self.position, self.position + self.batch_size) % self.windows
        self.position += self.batch_size
        return order * self.context

    def state(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state(self, state: Mapping[str, int]) -> None:
        self.position = state["position"]


class ShuffledSampler:
    """The same windows, each once an epoch, in an order of its own for every epoch."""

    def __init__(self, n_tokens: int, context: int, batch_size: int, seed: int) -> None:
        _check(n_tokens, context, batch_size)
        self.context, self.batch_size, self.seed = context, batch_size, seed
        self.windows = (n_tokens - 1) // context
        self.position = 0

    def next(self) -> Starts:
        steps = np.arange(self.position, self.position + self.batch_size)
        self.position += self.batch_size
        epochs, places = steps // self.windows, steps % self.windows
        order = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            order[now] = permuted(places[now], self.windows, stream_seed(self.seed, f"data/epoch {epoch}"))
        return order * self.context

    def state(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state(self, state: Mapping[str, int]) -> None:
        self.position = state["position"]


class RandomSampler:
    """Windows that start anywhere, drawn with replacement: what small training scripts do."""

    def __init__(self, n_tokens: int, context: int, batch_size: int, seed: int) -> None:
        _check(n_tokens, context, batch_size)
        self.batch_size, self.seed = batch_size, seed
        self.starts = n_tokens - context
        self.step = 0

    def next(self) -> Starts:
        counter = np.random.Philox(key=stream_seed(self.seed, "data"), counter=[0, 0, 0, self.step])  # the step's own stretch of the stream
        self.step += 1
        return np.random.Generator(counter).integers(self.starts, size=self.batch_size)

    def state(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state(self, state: Mapping[str, int]) -> None:
        self.step = state["step"]


def permuted(places: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Where a keyed permutation of 0 … n − 1 sends ``places``, without holding it.

    How: a Feistel network of four rounds permutes the smallest even power of two ≥ n; a result ≥ n is sent round again until it is
    below n (cycle walking), which happens within four tries on average. Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.Philox(key=key).random_raw(4)
    result = places.astype(np.uint64)
    todo = np.ones(len(result), bool)
    while todo.any():
        left, right = result[todo] >> np.uint64(half), result[todo] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        result[todo] = left << np.uint64(half) | right
        todo = result >= n
    return result.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of 64-bit integers (the finaliser of MurmurHash3)."""
    x = (x ^ x >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ x >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ x >> np.uint64(33)


class Batches:
    """Inputs and targets: windows of ``ids`` (an array or ``Shards``) at the sampler's starts, the targets one token ahead."""

    def __init__(self, ids: Any, sampler: Sampler, context: int) -> None:
        _check(len(ids), context, 1)
        self.ids = ids if hasattr(ids, "__array__") or hasattr(ids, "meta") else np.asarray(ids)
        self.sampler, self.context = sampler, context

    def next(self) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """The next (x, y), both int64."""
        windows = np.stack([np.asarray(self.ids[start : start + self.context + 1]) for start in self.sampler.next().tolist()])
        batch = torch.from_numpy(windows.astype(np.int64))
        return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()

    def state(self) -> dict[str, int]:
        return self.sampler.state()

    def load_state(self, state: Mapping[str, int]) -> None:
        self.sampler.load_state(state)
