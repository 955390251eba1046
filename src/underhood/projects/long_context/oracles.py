"""What the checks of long context compare with: the papers' formulas, torch's complex numbers; and how two numbers of a pair are told."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from underhood.lab.check import CheckFailed, holds
from underhood.nn.rope import RopeConfig

BASE = 10_000.0


def plain(width: int, base: float = BASE) -> Tensor:
    """base^(-2i/width)."""
    return torch.tensor([base ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Halves of ``x`` as real and imaginary parts, times e^(i angle)."""
    half = x.shape[-1] // 2
    product = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([product.real, product.imag], dim=-1)


def by_turns(width: int, rope: RopeConfig) -> Tensor:
    """YaRN's kept shares, pair by pair, from the solutions of L·b^(-2i/D) = 2π·turns for i."""
    assert rope.original_context is not None
    at = [width * math.log(rope.original_context / (2 * math.pi * turns)) / (2 * math.log(rope.base)) for turns in (rope.beta_fast, rope.beta_slow)]
    low, high = (math.floor(at[0]), math.ceil(at[1])) if rope.truncate else at
    low, high = max(low, 0), min(high, width - 1)
    return torch.tensor([1 - min(1.0, max(0.0, (i - low) / (high - low or 0.001))) for i in range(width // 2)], dtype=torch.float64)


def scaled(width: int, rope: RopeConfig, length: int) -> Tensor:
    """The frequencies of every kind, from the papers' formulas."""
    f, s, L = plain(width, rope.base), rope.factor, rope.original_context or 1
    if rope.kind in ("ntk", "dynamic"):
        s = s if rope.kind == "ntk" else max(1.0, s * length / L - s + 1)
        return plain(width, rope.base * s ** (width / (width - 2)))
    kept = torch.zeros_like(f)
    if rope.kind == "yarn":
        kept = by_turns(width, rope)
    if rope.kind == "llama3":
        waves = [L * float(x) / (2 * math.pi) for x in f]
        kept = torch.tensor(
            [min(1.0, max(0.0, (w - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor))) for w in waves], dtype=torch.float64
        )
    return f if rope.kind == "default" else kept * f + (1 - kept) * f / s


def in_brief(rope: RopeConfig) -> str:
    """Its kind and what was set."""
    fields = [f for f in dataclasses.fields(rope) if f.name != "kind" and getattr(rope, f.name) != f.default]
    return ", ".join([rope.kind, *(f"{f.name} {getattr(rope, f.name)}" for f in fields)])


def agree(found: Any, expected: Tensor, says: str, *, given: Any = None, atol: float = 1e-9, rtol: float = 1e-6) -> None:
    """Fail unless ``found`` is a tensor of the expected numbers; the first that is another is named, with the two numbers. One dimension: one number a pair."""
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    holds(shape == tuple(expected.shape), says, given=given, expected=f"a tensor of shape {tuple(expected.shape)}", found=shape)
    values = found.detach().double()
    apart = (~torch.isclose(values, expected, atol=atol, rtol=rtol)).nonzero().tolist()
    if apart:
        place = tuple(apart[0])
        where, what = (f"for pair {place[0]}", "pairs") if expected.ndim == 1 else (f"at {list(place)}", "numbers")
        more = f", the first of {len(apart)} {what} that differ" if len(apart) > 1 else ""
        raise CheckFailed(says, given=given, expected=f"{float(expected[place]):.9g} {where}", found=f"{float(values[place]):.9g} {where}{more}")
