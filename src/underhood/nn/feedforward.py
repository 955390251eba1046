"""The feed-forward layer: each position thinks by itself, in a space four times as wide, and writes the result back.

``FeedForward`` is up, bend, down (Vaswani et al. 2017, arXiv 1706.03762, eq. 2). ``GatedFeedForward`` multiplies two upward projections, one
of them bent: with SiLU it is SwiGLU, with GELU GeGLU (Shazeer 2020, arXiv 2002.05202, eq. 6). It has three matrices, so a hidden width of 8/3 C
makes it as large as the plain one.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from underhood.nn.activation import gelu_tanh, silu
from underhood.nn.linear import Linear

Activation = Callable[[Tensor], Tensor]


class FeedForward(nn.Module):
    """``down(activation(up(x)))``, width → hidden → width."""

    def __init__(self, width: int, hidden: int, *, activation: Activation = gelu_tanh, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(width, hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``; no position sees another."""
        return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]


class GatedFeedForward(nn.Module):
    """``down(activation(gate(x)) * up(x))``; SwiGLU when the activation is SiLU."""

    def __init__(self, width: int, hidden: int, *, activation: Activation = silu, bias: bool = False) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias=bias)
        self.up = Linear(width, hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``; no position sees another."""
        return self.down(self.activation(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]
