"""Fast twins of the plain parts: the same parameters and the same function through torch's fused kernels. Tests hold each equal to its twin.

``fast(config)`` names them in place of the plain ones; since parameters have the same names, either kind reads the other's checkpoints.
"""

import dataclasses
import sys

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from underhood.nn import norm as plain_norm
from underhood.nn.gpt import GPTConfig


class LayerNorm(plain_norm.LayerNorm):
    """Layer norm in one kernel."""

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class RMSNorm(plain_norm.RMSNorm):
    """RMS norm in one kernel."""

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class BareRMSNorm(nn.Module):
    """RMS norm with nothing to learn, in one kernel."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, bias: bool = False) -> None:
        super().__init__()
        self.width, self.epsilon = width, epsilon

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return F.rms_norm(x, (self.width,), None, self.epsilon)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.gelu`` in one kernel."""
    return F.gelu(x)


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.gelu_tanh`` in one kernel."""
    return F.gelu(x, approximate="tanh")


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.silu`` in one kernel."""
    return F.silu(x)


def fast(config: GPTConfig) -> GPTConfig:
    """``config`` with the fast twin of each part that has one, and the fused attention kernel."""
    twins = {f: f"{__name__}:{getattr(config, f)}" for f in ("norm", "activation") if hasattr(sys.modules[__name__], getattr(config, f))}
    kernel = "sdpa" if config.kernel == "plain" else config.kernel
    return dataclasses.replace(config, kernel=kernel, **twins)  # type: ignore[arg-type]
