"""Decoding through compiled kernels: the next token's logits at the speed at which memory gives the weights.

``CompiledDecoder(model)`` continues texts of one length, ``prefill`` and then ``step`` after ``step``, or generates as ``underhood.infer.sample`` does;
``hidden`` and ``logits`` take a flat list of tokens of many requests, each with its own pages. It knows the parts listed in ``parts`` and refuses a model
with others. The plain path defines correct; a test holds them equal.

Needs numba. A token's bits depend neither on the other rows nor on the number of threads; ``prefill`` runs torch's kernels, which promise no such thing.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from underhood.base.errors import ConfigError, DataError, NonFinite, ShapeError
from underhood.infer.sample import SampleConfig, choose
from underhood.kernels.huge import use_huge_pages
from underhood.kernels.layer import NONE, Array
from underhood.kernels.matvec import IDENTITY, SET, project
from underhood.kernels.paged import paged_attend
from underhood.kernels.parts import Precision, matrix, read_block, read_norm, read_positions
from underhood.kernels.threads import same_as_torch
from underhood.nn.gpt import GPT

Numbers = Float32[np.ndarray, "N *rest"]
Whole = Int64[np.ndarray, "N"]
Pool = tuple[Float32[np.ndarray, "blocks block G D"], Float32[np.ndarray, "blocks block G D"]]  # keys and values of a layer
ONE_AT_A_TIME = threading.Lock()  # numba's threads serve one caller; a second would end the process where numba has no OpenMP


class CompiledDecoder:
    """A model's decoder. ``dtype`` is that of the matrices; activations, sums, keys and values are float32.

    With ``float32`` the arrays are the model's own memory, with ``bfloat16`` too if the model is in bfloat16; otherwise they are copies. ``huge_pages``
    gathers the matrices into huge pages where the system has them (2 MiB and more each; the model does not notice). Raises ``ConfigError`` for a part
    that is not compiled. ``compile_seconds`` is what compiling or loading the kernels took.
    """

    def __init__(self, model: GPT, dtype: Precision = "float32", *, huge_pages: bool = True) -> None:
        if dtype not in get_args(Precision):
            raise ConfigError(f"found {dtype!r}", where="dtype", expected=" or ".join(get_args(Precision)))
        if model.head_weight.device.type != "cpu":
            raise ConfigError(f"the model is on {model.head_weight.device}", where="device", expected="cpu")
        self.model, self.config, self.dtype = model, model.config, dtype
        self.layers = [read_block(b, dtype) for b in model.blocks]
        self.norm, self.head = read_norm(model.norm), matrix(model.head_weight, dtype)
        self.positions, self.turning = read_positions(model)
        if huge_pages:
            matrices = (part for layer in self.layers for part in (*layer.qkv, layer.output, layer.gate, layer.up, layer.down) if part is not None)
            use_huge_pages([self.head, *(array for part in matrices for array in part)])
        self.pools: list[Pool] = []
        self.lengths, self.table = np.zeros(0, np.int64), np.zeros((0, 1), np.int64)
        start = time.perf_counter()
        self._compile()
        self.compile_seconds = time.perf_counter() - start

    def _compile(self) -> None:
        self.reset(1, 1)
        self.step(np.zeros(1, np.int64))
        self.reset(0, 1)

    # ── a flat list of tokens, with pages from the caller ────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def hidden(
        self, tokens: Whole, at: Whole, table: Int64[np.ndarray, "N pages"], pools: Sequence[Pool], see: Callable[[int, Numbers], None] | None = None
    ) -> Float32[np.ndarray, "N C"]:
        """The residual stream after the final norm, of tokens that stand at positions ``at``.

        ``pools`` holds each layer's keys and values (blocks, block, G, D) float32; token n's are written into block ``table[n, at[n] // block]`` and it
        attends to all up to itself. Tokens of one request in one call see each other as far as their positions allow. ``see`` gets each block's number and a
        copy of the stream after it. Raises ``ShapeError``.
        """
        self._require(tokens, at, table, pools)
        ids = torch.from_numpy(tokens)
        x = self.model.tokens.weight.detach()[ids].float()
        if self.positions is not None:
            x = x + self.positions[torch.from_numpy(at)]
        stream, threads = x.numpy(), same_as_torch()
        with ONE_AT_A_TIME:
            for i, (layer, (keys, values)) in enumerate(zip(self.layers, pools, strict=True)):
                layer.run(stream, at, table, keys, values, self.turning, threads)
                if see is not None:
                    see(i, stream.copy())
        out = np.empty_like(stream)
        self.norm(stream, out)
        return out

    def logits(self, hidden: Float32[np.ndarray, "N C"]) -> Float[Tensor, "N V"]:
        """``hidden`` · headᵀ, softly capped if the config says so."""
        out, threads = np.empty((len(hidden), len(self.head)), np.float32), same_as_torch()
        with ONE_AT_A_TIME:
            project(hidden, self.head, NONE, out, 0, IDENTITY, SET, threads)
        logits, cap = torch.from_numpy(out), self.config.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def attend(self, q: Array, keys: Array, values: Array, table: Array, lengths: Array, window: int) -> Array:
        """Attention of single tokens, for a caller who computes the rest: q (N, H, D) float32, a layer's pool, ``table`` (N, pages), ``lengths`` (N)."""
        self._require_pages(lengths - 1, table, keys)
        out, threads = np.empty_like(q), same_as_torch()
        with ONE_AT_A_TIME:
            paged_attend(q, keys, values, table, lengths, out, window, threads)
        return out

    def new_pools(self, blocks: int, size: int) -> list[Pool]:
        """Empty pages for every layer: ``blocks`` of ``size`` positions."""
        shapes = [(blocks, size, layer.kv_heads, layer.head_width) for layer in self.layers]
        return [(np.empty(s, np.float32), np.empty(s, np.float32)) for s in shapes]

    def _require(self, tokens: Array, at: Array, table: Array, pools: Sequence[Pool]) -> None:
        """The kernels check nothing: an index that lies outside would read other memory."""
        if not (len(tokens) == len(at) == len(table) > 0 and len(pools) == len(self.layers)):
            raise ShapeError(f"{len(tokens)} tokens, {len(at)} positions, {len(table)} tables, {len(pools)} pools", expected="as many of each, pools as layers")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise ShapeError(f"tokens from {tokens.min()} to {tokens.max()}", expected=f"0 to {self.config.vocab_size - 1}")
        self._require_pages(at, table, pools[0][0])

    def _require_pages(self, at: Array, table: Array, pool: Array) -> None:
        blocks, size = pool.shape[:2]
        if at.min() < 0 or at.max() >= min(self.config.context, table.shape[1] * size):
            raise ShapeError(f"position {at.max()}", expected=f"below the context, {self.config.context}, and the pages' {table.shape[1] * size}")
        used = table[np.arange(table.shape[1]) <= (at // size)[:, None]]
        if used.min() < 0 or used.max() >= blocks:
            raise ShapeError(f"block {used.max()}", expected=f"0 to {blocks - 1}")

    # ── texts of one length, with a cache of their own ───────────────────────────────────────────────────────────────────────

    def reset(self, rows: int, capacity: int) -> None:
        """Forget all; make room for ``rows`` texts of up to ``capacity`` positions."""
        self.pools = self.new_pools(rows, capacity)
        self.lengths, self.table = np.zeros(rows, np.int64), np.arange(rows).reshape(-1, 1)

    @torch.no_grad()
    def prefill(self, ids: Int[Tensor, "B T"], capacity: int | None = None) -> Float[Tensor, "B V"]:
        """Begin anew with these texts, through the model itself; the logits after each. Room for ``capacity`` positions (default: the context)."""
        self.reset(len(ids), capacity or self.config.context)
        caches = _Caches([_LayerPages(keys, values) for keys, values in self.pools])
        training = self.model.training
        self.model.eval()
        try:
            last = self.model.hidden(ids, caches)[:, -1]
        finally:
            self.model.train(training)
        self.lengths += ids.shape[1]
        return self.logits(last.float().contiguous().numpy())

    def step(self, tokens: Int64[np.ndarray, "B"] | Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """One more token for each text; the logits after it. Raises ``ShapeError`` beyond the capacity."""
        hidden = self.hidden(np.asarray(tokens, np.int64), self.lengths, self.table, self.pools)
        self.lengths = self.lengths + 1
        return self.logits(hidden)

    def generate(self, ids: Sequence[int], config: SampleConfig, generator: torch.Generator) -> Iterator[int]:
        """As ``infer.sample.generate``: new tokens after ``ids``, one at a time, until ``max_tokens`` or an end token (which is not given)."""
        if not ids:
            raise DataError("the prompt holds no token", expected="at least one to continue from")
        uniform = torch.rand(1, config.max_tokens, generator=generator, dtype=torch.float64)
        past, context = torch.tensor([list(ids)]), self.config.context
        for i in range(config.max_tokens):
            if i == 0 or past.shape[1] > context:  # beyond the context every position moves with each step
                logits = self.prefill(past[:, -context:], min(context, past.shape[1] + config.max_tokens))
            else:
                logits = self.step(past[:, -1])
            token = _chosen(logits, past, config, uniform[:, i])
            if token in config.end_ids:
                return
            yield token
            past = torch.cat([past, torch.tensor([[token]])], dim=1)


class _LayerPages:
    """A layer's pool as the cache that the model writes while it reads the prompt."""

    def __init__(self, keys: Array, values: Array) -> None:
        self.keys, self.values = (torch.from_numpy(pool).transpose(1, 2) for pool in (keys, values))
        self.length = 0

    def extend(self, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T D"]) -> tuple[Tensor, Tensor]:
        """Append; the result holds all positions so far."""
        start, self.length = self.length, self.length + k.shape[2]
        if self.length > self.keys.shape[2]:
            raise ShapeError(f"{self.length} positions in the cache", expected=f"at most {self.keys.shape[2]}")
        self.keys[:, :, start : self.length], self.values[:, :, start : self.length] = k, v
        return (k, v) if start == 0 else (self.keys[:, :, : self.length].to(k.dtype), self.values[:, :, : self.length].to(v.dtype))


class _Caches:
    """What a model needs of a cache."""

    def __init__(self, layers: list[_LayerPages]) -> None:
        self.layers = layers

    @property
    def length(self) -> int:
        """Positions held."""
        return self.layers[0].length


def _chosen(logits: Float[Tensor, "1 V"], past: Int[Tensor, "1 T"], config: SampleConfig, uniform: Float[Tensor, "1"]) -> int:
    """``choose`` for one row; the likeliest token without torch, whose threads would wait in the way of the next step's."""
    if config.temperature or config.repetition_penalty != 1:
        return int(choose(logits, past, config, uniform))
    row = logits.numpy()[0]
    best = int(row.argmax())
    if not (np.isfinite(row[best]) and np.isfinite(row.min())):
        raise NonFinite("the model's logits")
    return best
