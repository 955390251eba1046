"""What the checks of the cache compare with: a whole Llama from torch's own functions that knows no cache, and attention over what a cache gives back."""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.lab.alike import alike
from underhood.lab.check import equal, runs
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig

V = 50
AGREES = 1e-9
GROUPED: Mapping[str, Any] = {"attention": "underhood.nn.grouped:GroupedQueryAttention", "positions": "underhood.nn.rope:ScaledRotary"}
SMALL: Mapping[str, Any] = {"vocab_size": V, "context": 64, "n_layer": 3, "n_head": 4, "width": 32, "hidden": 40, "init": "fan_in"}
CONFIGS: Mapping[str, GPTConfig] = {
    "three Llama blocks": llama(**SMALL, **GROUPED, rope=RopeConfig()),
    "three blocks, four heads of queries on two of keys": llama(**SMALL, **GROUPED, rope=RopeConfig(), n_kv_head=2),
    "three blocks whose keys are turned when they are read": llama(
        **SMALL, **GROUPED, rope=RopeConfig(kind="dynamic", factor=2.0, original_context=64), n_kv_head=2
    ),
}


@dataclasses.dataclass(frozen=True)
class Growing(Sequence[int]):
    """A list of tokens to which its owner appends: who holds on to one made before sees what the latest holds.

    A list itself would reach a learner's process as a new copy with every call.
    """

    tokens: tuple[int, ...]
    latest: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        type(self).latest = self.tokens

    def __len__(self) -> int:
        return len(self.latest)

    def __getitem__(self, at: Any) -> Any:
        return list(self.latest)[at]

    def copy(self) -> list[int]:
        """As a list's."""
        return list(self.latest)


def tokens(rng: random.Random, *shape: int) -> Tensor:
    """Random ids."""
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)))


def model(rng: random.Random, config: GPTConfig) -> GPT:
    """A model of random weights in float64: what a cache is used with. It is given, and never asked what is right."""
    return build_gpt(config, rng.getrandbits(31)).double().eval()


@torch.no_grad()
def whole(given: GPT, ids: Tensor) -> Tensor:
    """Logits (B T V) of a Llama, every position recomputed; rotation in complex numbers, attention by torch."""
    config, w = given.config, dict(given.named_parameters())
    H, G, D = config.n_head, config.n_kv_head or config.n_head, config.head_width
    angles = torch.outer(torch.arange(ids.shape[1], dtype=torch.float64), 10_000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D))
    turn, x = torch.polar(torch.ones_like(angles), angles), w["tokens.weight"][ids]

    def rotated(h: Tensor) -> Tensor:
        turned = torch.complex(h[..., : D // 2], h[..., D // 2 :]) * turn
        return torch.cat([turned.real, turned.imag], dim=-1)

    for i in range(config.n_layer):
        at = {name.removeprefix(f"blocks.{i}."): p for name, p in w.items() if name.startswith(f"blocks.{i}.")}
        h = F.rms_norm(x, (config.width,), at["norm1.weight"], config.epsilon)
        heads = {"query": H, "key": G, "value": G}
        q, k, v = (F.linear(h, at[f"attention.{n}.weight"]).view(*h.shape[:2], count, D).transpose(1, 2) for n, count in heads.items())
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, at["attention.output.weight"])
        h = F.rms_norm(x, (config.width,), at["norm2.weight"], config.epsilon)
        x = x + F.linear(F.silu(F.linear(h, at["feedforward.gate.weight"])) * F.linear(h, at["feedforward.up.weight"]), at["feedforward.down.weight"])
    return F.rms_norm(x, (config.width,), w["norm.weight"], config.epsilon) @ w["head.weight"].T


def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """softmax(qkᵀ/√D)v, where ``seen``."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores if seen is None else scores.masked_fill(~seen, -math.inf)).softmax(-1) @ v


def pair(found: Any, k: Tensor, v: Tensor, says: str, *, given: str) -> None:
    """Both tensors that ``extend`` gave back, in every bit and in their dtype."""
    keys, values = runs(lambda: tuple(found), "extend gives back a pair, keys and values", given=given)
    for name, one, expected in (("keys", keys, k), ("values", values, v)):
        alike(one, expected, f"{says}: the {name}", given=given, atol=0.0, rtol=0.0)
        equal(str(one.dtype), str(expected.dtype), f"the {name} come back in the dtype in which they came", given=given)
