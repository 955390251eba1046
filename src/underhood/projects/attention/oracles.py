"""What the checks of attention compare with: torch's own functions, never our healthy code."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.lab.alike import alike
from underhood.lab.check import equal
from underhood.lab.oracles import lower, noise, tried

WIDTH, HEADS = 12, 3


def drawn(mask: Tensor) -> str:
    """A (T S) mask in one line, a group for each query: 1 where it may look."""
    return "mask " + " ".join("".join("1" if seen else "0" for seen in row) for row in mask.tolist())


def told(settings: Mapping[str, Any]) -> str:
    """The settings of a layer in one line."""
    return ", ".join(f"{name}={value}" for name, value in ({"width": WIDTH, "n_head": HEADS} | dict(settings)).items())


def equals_torchs(out: Any, inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, rng: random.Random, given: str) -> None:
    """``out`` and its gradients at q, k and v are torch's."""
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    alike(out, expected, "the output equals torch's", given=given, atol=1e-9)
    upstream = noise(rng, *expected.shape)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    mine = tried("the gradient reaches q, k and v", torch.autograd.grad, out, inputs, upstream, given=given)
    for name, a, b in zip("qkv", mine, theirs, strict=True):
        alike(a, b, f"the gradient at {name} equals torch's", given=given, atol=1e-9)


# ── the layer, out of torch's parts, with its own weights ────────────────────────────────────────────────────────────


def weights_of(layer: Any, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters by name, the three projections laid together as ``qkv``; a failed check when they are not those of the settings."""
    state = dict(layer.named_parameters())
    projections = ["qkv"] if settings.get("fused_qkv", True) else ["query", "key", "value"]
    kinds = ["weight", "bias"] if settings.get("bias", True) else ["weight"]
    names = [f"{name}.{kind}" for name in (*projections, "output") for kind in kinds]
    says = "the layer's parameters are those of its linear layers, by name, with a bias where the settings say so"
    equal(sorted(state), sorted(names), says, given=told(settings))
    together = {f"qkv.{kind}": torch.cat([state[f"{name}.{kind}"] for name in projections]) for kind in kinds}
    return together | {f"output.{kind}": state[f"output.{kind}"] for kind in kinds}


def torchs(layer: Any, settings: Mapping[str, Any]) -> torch.nn.MultiheadAttention:
    """torch's layer with the same weights."""
    state = weights_of(layer, settings)
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64, bias=settings.get("bias", True))
    for name, value in state.items():
        owner = theirs if name.startswith("qkv") else theirs.out_proj
        getattr(owner, name.replace("qkv.", "in_proj_").replace("output.", "")).data = value.data
    return theirs


def in_heads(x: Tensor) -> Tensor:
    """(B T C) as (B T H D)."""
    return x.reshape(*x.shape[:-1], HEADS, WIDTH // HEADS)


def by_torch(layer: Any, x: Tensor, change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """A causal layer out of torch's functions, with ``change`` made to q, k and v (each B H T D)."""
    state = weights_of(layer, {})
    q, k, v = (in_heads(part).transpose(1, 2) for part in F.linear(x, state["qkv.weight"], state["qkv.bias"]).chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(*change(q, k, v), attn_mask=lower(x.shape[1]))
    return F.linear(mixed.transpose(1, 2).flatten(2), state["output.weight"], state["output.bias"])


def turning(start: int) -> Callable[[Tensor], Tensor]:
    """Turns (… T D), pair of numbers by pair, by angles that grow with the position; ``start`` is the position of the first."""

    def rotate(x: Tensor) -> Tensor:
        T, D = x.shape[-2:]
        angle = torch.arange(start, start + T, dtype=x.dtype)[:, None] / torch.arange(1, D // 2 + 1, dtype=x.dtype)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), dim=-1).flatten(-2)

    return rotate
