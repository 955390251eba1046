"""Activations: the bend between two linear layers, without which they would be one.

GELU (Hendrycks, Gimpel 2016, arXiv 1606.08415) is x·P(Z ≤ x) for a standard normal Z: ``gelu`` exactly, ``gelu_tanh`` by the paper's
approximation, which GPT-2 uses. ReLU² is from Primer (So et al. 2021, arXiv 2109.08668). All keep shape and dtype.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0)."""
    return x.clamp(min=0)


def relu_squared(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0)²: smooth at zero, cheap, and as good as GELU in language models."""
    return relu(x).square()


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x·Φ(x) with Φ(x) = (1 + erf(x/√2)) / 2."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x·(1 + tanh(√(2/π)(x + 0.044715 x³))) / 2; within 5e-4 of ``gelu``."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x·σ(x), also called swish."""
    return x * torch.sigmoid(x)
