"""The linear layer: every output is a weighted sum of all inputs, y = x Wᵀ + b."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def linear(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None = None) -> Float[Tensor, "... O"]:
    """x Wᵀ + b, written out: what ``Linear`` computes, and what defines correct."""
    y = x @ weight.T
    return y if bias is None else y + bias


class Linear(nn.Module):
    """``inputs`` → ``outputs`` features over the last axis; ``weight`` is (outputs, inputs), ``bias`` (outputs) or None.

    The weights are NaN until they are initialised (``underhood.nn.init``) or loaded: a weight that nobody set is seen at once.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((outputs, inputs), torch.nan))
        self.bias = nn.Parameter(torch.full((outputs,), torch.nan)) if bias else None

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        """``linear(x, weight, bias)`` in one call that adds the bias inside the matrix product."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.weight.shape[1]} → {self.weight.shape[0]}{'' if self.bias is not None else ', no bias'}"
