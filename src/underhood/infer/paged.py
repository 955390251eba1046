"""Keys and values in pages: many texts of any length in one buffer, and attention that reads each text's own (Kwon et al. 2023, arXiv 2309.06180, §4).

``pages`` says which block belongs to whom; here is the memory, one pool of keys and one of values a layer, (blocks, size, G, D), in float32 unless
asked otherwise. A ``Step`` is what one forward pass computes: a flat list of tokens, cut into reaches of one text each.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.infer.forward import hidden_at
from underhood.nn.attention import Mixed, plain, sdpa
from underhood.nn.dropout import Dropout
from underhood.nn.gpt import GPT, GPTConfig
from underhood.nn.grouped import share_heads, window_mask

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Reach:
    """Tokens ``begin`` … ``end`` - 1 of a step: the last of a text that is ``length`` tokens long and lies in ``blocks``."""

    begin: int
    end: int
    blocks: Int[Tensor, "pages"]
    length: int


@dataclasses.dataclass(frozen=True)
class Singles:
    """Reaches of one token each, which one call computes for all: rows of the step, the block of each page of each row, and how long each text is.

    ``attend(q, keys, values, table, lengths, window)`` is a compiled kernel: q (R, H, D) → (R, H, D), keys and values the layer's pool, window 0 for none.
    """

    rows: Int[Tensor, "R"]
    table: Array
    lengths: Array
    attend: Callable[[Array, Array, Array, Array, Array, int], Array]


@dataclasses.dataclass(frozen=True)
class Step:
    """What one forward pass computes: N tokens, where each stands in its text, the slot of its key and value, and whose it is."""

    ids: Int[Tensor, "N"]
    at: Int[Tensor, "N"]
    slots: Int[Tensor, "N"]
    reaches: Sequence[Reach]
    singles: Singles | None = None  # the tokens that are in no reach


def with_singles(step: Step, attend: Callable[[Array, Array, Array, Array, Array, int], Array]) -> Step:
    """The same step, in which ``attend`` computes the reaches of one token."""
    alone = [r for r in step.reaches if r.end - r.begin == 1]
    if not alone:
        return step
    table, lengths = padded([r.blocks.tolist() for r in alone]), np.array([r.length for r in alone], dtype=np.int64)
    singles = Singles(torch.tensor([r.begin for r in alone]), table, lengths, attend)
    return dataclasses.replace(step, reaches=[r for r in step.reaches if r.end - r.begin > 1], singles=singles)


def padded(tables: Sequence[Sequence[int]]) -> Array:
    """Lists of blocks as rows of one int64 array, filled with block 0."""
    rows = np.zeros((len(tables), max(map(len, tables))), dtype=np.int64)
    for row, table in zip(rows, tables, strict=True):
        row[: len(table)] = table
    return rows


class PagedCache:
    """The memory of ``n_blocks`` blocks of ``size`` tokens for every layer of a model. Blocks hold zeros until they are written."""

    def __init__(self, config: GPTConfig, n_blocks: int, size: int, dtype: torch.dtype = torch.float32) -> None:
        if config.latent is not None:
            raise ConfigError("latent attention caches no keys and values", where="latent", expected="none, for pages")
        self.windows = [c.attend.window for c in config.block_configs]
        shape = (n_blocks, size, config.n_kv_head or config.n_head, config.head_width)
        self.pools = [(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in self.windows]

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (from, to), in order."""
        for source, target in copies:
            for pool in (p for pair in self.pools for p in pair):
                pool[target] = pool[source]

    def layers(self, step: Step) -> list["PagedLayer"]:
        """One layer cache a layer, for one step."""
        return [PagedLayer(keys, values, window, step) for (keys, values), window in zip(self.pools, self.windows, strict=True)]


class PagedLayer:
    """One layer's pages during one step. Stands in for keys and values between the layer's cache and its kernel: no tensor, but what reads them."""

    def __init__(self, keys: Tensor, values: Tensor, window: int | None, step: Step) -> None:
        self.keys, self.values, self.window, self.step = keys, values, window, step

    def extend(self, k: Float[Tensor, "1 G N D"], v: Float[Tensor, "1 G N D"]) -> tuple[Tensor, Tensor]:
        """Write keys and values into their slots; what comes back is for ``PagedKernel`` alone."""
        for pool, new in ((self.keys, k), (self.values, v)):
            pool.view(-1, *pool.shape[2:])[self.step.slots] = new[0].transpose(0, 1).to(pool.dtype)
        return cast(Tensor, self), cast(Tensor, self)

    def attend(self, q: Float[Tensor, "1 H N D"], dropout: Dropout, *, readable: bool) -> Float[Tensor, "1 H N D"]:
        """Each query's mixture of the values of its own text, up to itself."""
        out, singles = torch.empty_like(q), self.step.singles
        for r in self.step.reaches:
            out[:, :, r.begin : r.end] = self._mixed(q[:, :, r.begin : r.end], r, dropout, readable)
        if singles is not None:
            rows = q[0, :, singles.rows].transpose(0, 1).contiguous().numpy()
            mixed = singles.attend(rows, self.keys.numpy(), self.values.numpy(), singles.table, singles.lengths, self.window or 0)
            out[0, :, singles.rows] = torch.from_numpy(mixed).transpose(0, 1)
        return out

    def _mixed(self, q: Tensor, reach: Reach, dropout: Dropout, readable: bool) -> Tensor:
        k, v = (share_heads(self._of(pool, reach).to(q.dtype), q.shape[1]) for pool in (self.keys, self.values))
        T, S = q.shape[2], reach.length
        near = None if self.window is None or self.window >= S else window_mask(T, S, self.window)
        return (plain if readable else sdpa)(q, k, v, causal=True, mask=near, dropout=dropout)[0]

    def _of(self, pool: Tensor, reach: Reach) -> Float[Tensor, "1 G S D"]:
        """What the pool holds of one text."""
        return pool[reach.blocks].flatten(0, 1)[: reach.length].transpose(0, 1).unsqueeze(0)


class PagedKernel:
    """A layer's kernel that reads pages where it is given them and is the layer's own kernel otherwise."""

    def __init__(self, other: Any) -> None:
        self.other, self.readable = other, other is plain

    def __call__(self, q: Tensor, k: Any, v: Any, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
        """As ``underhood.nn.attention.plain``."""
        if isinstance(k, PagedLayer):
            return k.attend(q, dropout, readable=self.readable), None
        mixed: Mixed = self.other(q, k, v, causal=causal, mask=mask, dropout=dropout)
        return mixed


def read_pages(model: GPT) -> GPT:
    """Let every layer of ``model`` read pages too; other paths through it stay as they are."""
    for block in model.blocks:
        layer: Any = block.attention
        if not isinstance(layer.kernel, PagedKernel):
            layer.kernel = PagedKernel(layer.kernel)
    return model


@torch.no_grad()
def hidden_of(model: GPT, cache: PagedCache, step: Step) -> Float[Tensor, "N C"]:
    """The residual stream after the final norm for the tokens of ``step``; their keys and values are written. ``model`` must ``read_pages``."""
    return hidden_at(model, step.ids, step.at, cache.layers(step))
