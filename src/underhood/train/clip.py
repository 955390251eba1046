"""Clipping the gradient by its global norm (Pascanu et al. 2013): one surprising batch must not throw the weights far away."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from underhood.base.errors import NonFinite


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """√Σg² over all gradients of all parameters, as one 0-dimensional tensor; zero when there is none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms: Tensor = torch.linalg.vector_norm(torch.stack([n.float() for n in torch._foreach_norm(gradients)]))
    return norms


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> float:
    """Scale all gradients by one factor, in place, so that their global norm is at most ``max_norm``; returns the norm before. None only measures.

    A norm that is NaN or infinite raises ``NonFinite`` and leaves the gradients as they are: scaling by it would spread one bad entry to every weight.

    How: the norm runs over all tensors together, not each by itself; the factor is min(1, max_norm / norm).
    """
    parameters = list(parameters)
    norm = float(gradient_norm(parameters))
    if not math.isfinite(norm):
        raise NonFinite("the gradient norm")
    if max_norm is not None and norm > max_norm:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], max_norm / norm)
    return norm
