"""What the checks of a GPT compare with: GPT-2 composed of torch's functions, rotary positions as complex numbers, and stand-ins that note what they get."""

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.lab.oracles import noise
from underhood.nn.block import BlockConfig
from underhood.nn.gpt import GPTConfig

Turn = Callable[[Tensor], Tensor]


def whole_numbers(rng: random.Random, below: int, *shape: int) -> Tensor:
    """Integers from 0 to ``below`` − 1."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)))


def drawn(module: nn.Module, rng: random.Random) -> Any:
    """``module`` in float64 with random weights, its gains around one."""
    module = module.double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(noise(rng, *p.shape) / 3 + (1 if "norm" in name and name.endswith("weight") else 0))
    return module


def silenced(block: Any, *names: str) -> Any:
    """``block`` with the named linear layers at zero."""
    with torch.no_grad():
        for name, p in block.named_parameters():
            if name.startswith(names):
                p.zero_()
    return block


# ── GPT-2 from torch's functions ──────────────────────────────────────────────────────────────────────────────────────


def torch_block(x: Tensor, w: Mapping[str, Tensor], heads: int, *, at: str = "", mask: Tensor | None = None, turn: Turn | None = None) -> Tensor:
    """GPT-2's block from the weights ``w`` under the prefix ``at``; ``mask`` hides more than the future, ``turn`` acts on queries and keys."""
    B, T, C = x.shape

    def norm(n: str) -> Tensor:
        return F.layer_norm(x, (C,), w[f"{at}{n}.weight"], w[f"{at}{n}.bias"])

    def linear(h: Tensor, n: str) -> Tensor:
        return F.linear(h, w[f"{at}{n}.weight"], w[f"{at}{n}.bias"])

    q, k, v = (p.view(B, T, heads, C // heads).transpose(1, 2) for p in linear(norm("norm1"), "attention.qkv").chunk(3, -1))
    q, k = (q, k) if turn is None else (turn(q), turn(k))
    past = torch.ones(T, T, dtype=torch.bool).tril()
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=past if mask is None else past & mask).transpose(1, 2).reshape(B, T, C)
    x = x + linear(mixed, "attention.output")
    return x + linear(F.gelu(linear(norm("norm2"), "feedforward.up"), approximate="tanh"), "feedforward.down")


def torch_hidden(ids: Tensor, w: Mapping[str, Tensor], config: GPTConfig, *, turn: Turn | None = None) -> Tensor:
    """GPT-2's stream after the last norm; with ``turn`` that acts on queries and keys instead of a table of positions."""
    x = w["tokens.weight"][ids]
    if turn is None:
        x = x + w["positions.table.weight"][: ids.shape[1]]
    for i in range(config.n_layer):
        x = torch_block(x, w, config.n_head, at=f"blocks.{i}.", turn=turn)
    return F.layer_norm(x, (config.width,), w["norm.weight"], w["norm.bias"])


def torch_gpt(ids: Tensor, w: Mapping[str, Tensor], config: GPTConfig, *, turn: Turn | None = None) -> Tensor:
    """GPT-2's logits."""
    return torch_hidden(ids, w, config, turn=turn) @ w["tokens.weight" if config.tie else "head.weight"].T


def turned(h: Tensor) -> Tensor:
    """(B H T D): each pair (i, i + D/2) as a complex number, turned by position · 10000^(−2i/D)."""
    T, half = h.shape[-2], h.shape[-1] // 2
    angles = torch.outer(torch.arange(T, dtype=h.dtype), 10_000 ** (-torch.arange(half, dtype=h.dtype) / half))
    z = torch.complex(h[..., :half], h[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


# ── a cache, and parts that note what they were built from ────────────────────────────────────────────────────────────


class KeptLayer(nn.Module):
    """One layer's keys and values so far. A module, so that it stays in one place wherever the model runs."""

    _kept: tuple[Tensor, ...] = ()

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Append, and return all."""
        self._kept = tuple(torch.cat(pair, dim=2) for pair in zip(self._kept, (k, v), strict=True)) if self._kept else (k, v)
        return self._kept


class Kept(nn.Module):
    """A cache of ``n_layer`` layers."""

    def __init__(self, n_layer: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(KeptLayer() for _ in range(n_layer))

    @property
    def length(self) -> int:
        """Positions held."""
        first = self.layers[0]
        assert isinstance(first, KeptLayer)
        return first._kept[0].shape[2] if first._kept else 0


class NotingPositions(nn.Module):
    """Positions that keep what they were built from, in words."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.told = ", ".join([*map(str, args), *(f"{k}={v}" for k, v in options.items())])


class NotingBlock(nn.Module):
    """A block that keeps what it was built from, in words."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.told = in_brief(config)


def in_brief(config: BlockConfig) -> str:
    """What tells a block's configuration from another block's."""
    return f"attention={config.attention.rpartition(':')[2]}, window={config.attend.window}"


class Drop(nn.Module):
    """Dropout with a generator of its own, so that a check draws from no other."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Half of the numbers, doubled, while training."""
        return x * torch.empty_like(x).bernoulli_(0.5, generator=self.generator) * 2 if self.training else x


@dataclasses.dataclass
class Once:
    """What can be gone through once, as ``model.parameters()`` can."""

    items: list[Any]

    def __iter__(self) -> Iterator[Any]:
        items, self.items = self.items, []
        return iter(items)
