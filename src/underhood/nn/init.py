"""Initial weights: each parameter is drawn from a stream of its own, keyed by its name, so that adding a layer never moves another's draw.

A scheme is a function of a parameter's name and shape. Biases start at 0 and gains at 1 in all of them; matrices differ.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from underhood.base.rng import stream_seed

Scheme = Callable[[str, tuple[int, ...], torch.Generator], Tensor]

RESIDUAL = ("attention.output.weight", "feedforward.down.weight")  # what writes into the residual stream


def gpt2(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal with deviation 0.02 (Radford et al. 2019): small enough for any width, right for a width near 2,500."""
    return vector(name, shape) if len(shape) < 2 else 0.02 * torch.randn(shape, generator=generator)


def fan_in(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal with deviation 1/√(inputs): unit variance in, unit variance out."""
    return vector(name, shape) if len(shape) < 2 else torch.randn(shape, generator=generator) / math.sqrt(shape[-1])


def zeros(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """All matrices zero: nothing tells the units apart, so this cannot learn what the others can."""
    return vector(name, shape) if len(shape) < 2 else torch.zeros(shape)


def vector(name: str, shape: tuple[int, ...]) -> Tensor:
    """A bias: zeros. Any other vector is a gain: ones."""
    return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)


def init_parameters(model: nn.Module, seed: int, scheme: Scheme = gpt2, *, n_layer: int = 1, residual: Literal["scaled", "plain", "zero"] = "scaled") -> None:
    """Draw every parameter of ``model`` from the stream ``init/<its name>`` of ``seed``; the same on every device.

    ``residual`` says how the 2 · ``n_layer`` matrices that write into the residual stream start: divided by √(2 · n_layer), so that the stream's variance
    does not grow with depth (GPT-2); as drawn; or zero, so that every block starts as the identity.
    """
    factor = {"scaled": 1 / math.sqrt(2 * n_layer), "plain": 1.0, "zero": 0.0}[residual]
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(stream_seed(seed, f"init/{name}"))
        drawn = scheme(name, tuple(parameter.shape), generator)
        with torch.no_grad():
            parameter.copy_(drawn * factor if name.endswith(RESIDUAL) else drawn)
