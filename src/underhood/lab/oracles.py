"""What checks of torch layers have in common: numbers to try them on, a mask, a cache, and what is said of an exception. Never our healthy code."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from underhood.lab.check import CheckFailed, runs


def noise(rng: random.Random, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)), dtype=torch.float64).to(dtype)


def lower(T: int, S: int | None = None) -> Tensor:
    """The causal mask, from torch's own triangle."""
    S = S or T
    return ~torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)


def tried(says: str, function: Callable[..., Any], *args: Any, given: Any = None, **options: Any) -> Any:
    """``function(*args, **options)``; an exception in it is a failed check."""
    return runs(lambda: function(*args, **options), says, given=given)


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
