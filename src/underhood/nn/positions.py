"""Positions: attention sees a set; these tell it the order.

Three ways: a learned vector per position (GPT-2), a fixed one made of sines (Vaswani et al. 2017, arXiv 1706.03762, §3.5), both added to the token
vectors; or a rotation of queries and keys by an angle that grows with the position, so that their product depends on the distance alone
(RoPE: Su et al. 2021, arXiv 2104.09864, eq. 34).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from underhood.base.errors import ConfigError
from underhood.nn.embedding import Embedding

Rotate = Callable[[Tensor], Tensor]


class Positions(nn.Module):
    """What a GPT asks of its positions; this one tells nothing (a causal mask alone still lets a model count)."""

    def __init__(self, context: int, width: int, head_width: int) -> None:
        super().__init__()

    def add(self, x: Float[Tensor, "B T C"], start: int = 0) -> Float[Tensor, "B T C"]:
        """``x`` with the vectors of positions start … start+T-1 added."""
        return x

    def rotation(self, x: Float[Tensor, "B T C"], start: int = 0) -> Rotate | None:
        """What turns queries and keys (B H T D) by their positions; None when nothing is turned. ``x`` gives length, dtype and device."""
        return None


class Learned(Positions):
    """A learned vector for each of ``context`` positions."""

    def __init__(self, context: int, width: int, head_width: int) -> None:
        super().__init__(context, width, head_width)
        self.table = Embedding(context, width)

    def add(self, x: Float[Tensor, "B T C"], start: int = 0) -> Float[Tensor, "B T C"]:
        """``x`` plus rows start … start+T-1 of the table; past its end there is no row, which is an error of torch's."""
        return x + self.table.weight.narrow(0, start, x.shape[1])


class Sinusoidal(Positions):
    """Fixed vectors: sine in the even columns, cosine in the odd, wavelengths from 2π to 20000π."""

    table: Tensor

    def __init__(self, context: int, width: int, head_width: int) -> None:
        super().__init__(context, width, head_width)
        self.register_buffer("table", sinusoids(context, width), persistent=False)

    def add(self, x: Float[Tensor, "B T C"], start: int = 0) -> Float[Tensor, "B T C"]:
        """``x`` plus rows start … start+T-1 of the table."""
        return x + self.table.narrow(0, start, x.shape[1]).to(x.dtype)


class Rotary(Positions):
    """Rotation of each pair (i, i + D/2) of a head's numbers by position · 10000^(-2i/D): the halved layout, as Llama's weights have it."""

    angles: Tensor

    def __init__(self, context: int, width: int, head_width: int) -> None:
        super().__init__(context, width, head_width)
        if head_width % 2:
            raise ConfigError(f"a head of {head_width} numbers has no pairs to rotate", where="positions", expected="an even head width")
        self.register_buffer("angles", rotary_angles(context, head_width), persistent=False)

    def rotation(self, x: Float[Tensor, "B T C"], start: int = 0) -> Rotate:
        """The rotation for positions start … start+T-1, its sines computed once for all layers."""
        angles = self.angles.narrow(0, start, x.shape[1])
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return lambda q: rotate(q, cos, sin)


def sinusoids(context: int, width: int) -> Float[Tensor, "T C"]:
    """Row p: sin(p / 10000^(2i/C)) in column 2i, the cosine of the same in column 2i+1. An odd width ends with a sine."""
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies(width + width % 2))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


def rotary_angles(context: int, head_width: int) -> Float[Tensor, "T half"]:
    """Row p: the angles p · 10000^(-2i/D) for i = 0 … D/2-1, in radians."""
    return torch.outer(torch.arange(context, dtype=torch.float64), frequencies(head_width)).float()


def frequencies(width: int, base: float = 10_000.0) -> Float[Tensor, "half"]:
    """base^(-2i/width) for i = 0 … width/2-1, in radians per position."""
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def rotate(x: Float[Tensor, "... T D"], cos: Float[Tensor, "T half"], sin: Float[Tensor, "T half"]) -> Float[Tensor, "... T D"]:
    """Turn the pair (first half, second half) of every vector by its position's angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
