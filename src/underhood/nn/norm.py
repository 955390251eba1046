"""Normalisation: give every position's vector a standard size, so that depth neither blows up nor dies out.

Layer norm (Ba, Kiros, Hinton 2016, arXiv 1607.06450, eq. 4) centres and scales; RMS norm (Zhang, Sennrich 2019, arXiv 1910.07467, eq. 4) only scales.
Statistics of half-precision inputs are taken in float32: a square overflows float16 beyond 255.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


def layer_norm(x: Float[Tensor, "... C"], epsilon: float = 1e-5) -> Float[Tensor, "... C"]:
    """(x - mean) / √(variance + epsilon) over the last axis; the variance divides by C, not C - 1."""
    wide = x.float() if x.dtype in HALF else x
    centred = wide - wide.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return (centred * torch.rsqrt(variance + epsilon)).to(x.dtype)


def rms_norm(x: Float[Tensor, "... C"], epsilon: float = 1e-5) -> Float[Tensor, "... C"]:
    """x / √(mean of x² + epsilon) over the last axis."""
    wide = x.float() if x.dtype in HALF else x
    square = wide.square().mean(-1, keepdim=True)
    return (wide * torch.rsqrt(square + epsilon)).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm with a learned gain and, if ``bias``, a learned shift."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.full((width,), torch.nan))
        self.bias = nn.Parameter(torch.full((width,), torch.nan)) if bias else None

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        scaled = layer_norm(x, self.epsilon) * self.weight
        return scaled if self.bias is None else scaled + self.bias


class RMSNorm(nn.Module):
    """RMS norm with a learned gain; ``bias`` is accepted for LayerNorm's signature and makes no parameter: there is no shift."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, bias: bool = False) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.full((width,), torch.nan))

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return rms_norm(x, self.epsilon) * self.weight


class BareRMSNorm(nn.Module):
    """RMS norm with nothing to learn: the next linear layer can hold the gain itself."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, bias: bool = False) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return rms_norm(x, self.epsilon)
