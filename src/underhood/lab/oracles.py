"""What checks of torch layers have in common: numbers to try them on, and how they tell where two tensors differ. Never our healthy code."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from underhood.lab.check import CheckFailed, holds, runs


def noise(rng: random.Random, *shape: int) -> Tensor:
    """Float64 numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)), dtype=torch.float64)


def lower(T: int, S: int | None = None) -> Tensor:
    """The causal mask, from torch's own triangle."""
    S = S or T
    return ~torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)


def tried(says: str, function: Callable[..., Any], *args: Any, given: Any = None, **options: Any) -> Any:
    """``function(*args, **options)``; an exception in it is a failed check."""
    return runs(lambda: function(*args, **options), says, given=given)


def alike(found: Any, expected: Tensor, says: str, *, given: Any = None, atol: float = 1e-6) -> None:
    """``close`` for tensors too large to print: it tells the first place at which the two differ."""
    wanted, shape = tuple(expected.shape), tuple(getattr(found, "shape", ()))
    holds(shape == wanted, says, given=given, expected=f"shape {wanted}", found=f"shape {shape}" if shape else type(found).__name__)
    a, b = found.detach().double(), expected.detach().double()
    differs = ~torch.isclose(a, b, rtol=1e-6, atol=atol, equal_nan=True)
    if differs.any():
        place = tuple(differs.nonzero()[0].tolist())
        raise CheckFailed(says, given=given, expected=f"{float(b[place]):.6g} at {place}", found=f"{float(a[place]):.6g} at {place}")


def refused(call: Callable[[], Any], error: type[Exception], says: str, *, given: Any) -> Exception:
    """The error that ``call()`` raises, which must be an ``error``; a result in its place is not printed."""
    try:
        call()
    except error as found:
        return found
    except Exception as other:
        raise CheckFailed(says, given=given, expected=error.__name__, found=f"{type(other).__name__}: {other}") from other
    raise CheckFailed(says, given=given, expected=error.__name__, found="a result")


def equals(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape agree."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-9)


class Ends:
    """The simplest cache: keys and values laid end to end."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All so far."""
        self.keys.append(k)
        self.values.append(v)
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)
