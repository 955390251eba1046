"""``close`` for tensors, told in one line: the factor when the found numbers are a multiple of the expected ones, else the place where they differ most."""

from typing import Any

import torch
from torch import Tensor

from underhood.lab.check import CheckFailed, holds

STRAIGHT = 1e-6  # how far, as a share of their length, numbers may be from a multiple of others and still be called one


def alike(found: Any, expected: Tensor, says: str, *, given: Any = None, atol: float = 1e-6, rtol: float = 1e-6) -> None:
    """Fail unless the tensors agree in shape and in every number, |found − expected| ≤ atol + rtol·|expected|; NaN agrees with NaN."""
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    holds(shape == tuple(expected.shape), says, given=given, expected=f"a tensor of shape {tuple(expected.shape)}", found=shape)
    a, b = found.detach().double(), expected.detach().double()
    apart = ~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    if not apart.any():
        return
    factor = _factor(a, b)
    if factor is not None:
        raise CheckFailed(says, given=given, expected=f"{b.numel()} numbers of at most {float(b.abs().max()):.6g}", found=f"{factor:.4f} × expected")
    deviation = torch.where(apart, (a - b).abs().nan_to_num(nan=torch.inf), -1.0)
    place = torch.unravel_index(deviation.argmax(), a.shape)
    where = f" at [{', '.join(str(int(i)) for i in place)}]" if a.ndim else ""
    more = f", the largest deviation: {int(apart.sum())} of {a.numel()} numbers differ" if a.numel() > 1 else ""
    raise CheckFailed(says, given=given, expected=f"{float(b[place]):.6g}{where}", found=f"{float(a[place]):.6g}{where}{more}")


def _factor(a: Tensor, b: Tensor) -> float | None:
    """k where a = k·b in every number, for several numbers that are not all 0."""
    if a.numel() < 2 or not (a.isfinite().all() and b.isfinite().all()) or not b.any() or not a.any():
        return None
    k = float((a * b).sum() / b.square().sum())
    return k if float((a - k * b).norm()) <= STRAIGHT * float(a.norm()) else None
