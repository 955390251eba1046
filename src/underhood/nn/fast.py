"""Fast twins of the plain parts: the same parameters and the same function through torch's fused kernels. Tests hold each equal to its twin.

``fast(config)`` names them in place of the plain ones; since parameters have the same names, either kind reads the other's checkpoints.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from underhood.nn import attention as plain_attention
from underhood.nn import norm as plain_norm
from underhood.nn import positions as plain_positions
from underhood.nn.attention import LayerCache, merge_heads, split_heads
from underhood.nn.gpt import GPTConfig


class LayerNorm(plain_norm.LayerNorm):
    """Layer norm in one kernel."""

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


def rms_norm(x: Float[Tensor, "... C"], epsilon: float = 1e-5) -> Float[Tensor, "... C"]:
    """``underhood.nn.norm.rms_norm`` with its gradient by hand."""
    if x.dtype in plain_norm.HALF:
        return plain_norm.rms_norm(x, epsilon)
    y: Tensor = _RMSNorm.apply(x, epsilon)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    """y = x / r with r = √(mean x² + ε); dx = (g - y · mean(g · y)) / r: seven passes in place of torch's fifteen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> Tensor:
        width = x.shape[-1]
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(epsilon).rsqrt_()
        y: Tensor = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (g,), (y, inverse) = upstream, ctx.saved_tensors
        return torch.addcmul(g, y, (g * y).mean(-1, keepdim=True), value=-1).mul_(inverse), None


class RMSNorm(plain_norm.RMSNorm):
    """RMS norm with its gradient by hand."""

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return rms_norm(x, self.epsilon) * self.weight


class BareRMSNorm(plain_norm.BareRMSNorm):
    """RMS norm with nothing to learn, its gradient by hand."""

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Shape and dtype of ``x``."""
        return rms_norm(x, self.epsilon)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.gelu`` in one kernel."""
    return F.gelu(x)


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.gelu_tanh`` in one kernel."""
    return F.gelu(x, approximate="tanh")


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.silu`` in one kernel."""
    return F.silu(x)


def relu_squared(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``underhood.nn.activation.relu_squared`` with its gradient by hand."""
    y: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return y


class _ReluSquared(torch.autograd.Function):
    """y = r² with r = max(x, 0); dx = 2 r g: neither the mask nor a power is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = F.relu(x)
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (g,), (r,) = upstream, ctx.saved_tensors
        return (g * r).mul_(2)


class Rotary(plain_positions.Rotary):
    """Rotary positions, three passes a rotation; its gradient is the rotation back."""

    def rotation(self, x: Float[Tensor, "B T C"], start: int = 0) -> plain_positions.Rotate:
        """The rotation for positions start … start+T-1, its sines computed once for all layers."""
        angles = self.angles[start : start + x.shape[1]]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        twice = torch.cat([cos, cos], dim=-1)
        return lambda q: _Rotation.apply(q, twice, sin)  # type: ignore[no-untyped-call]


class _Rotation(torch.autograd.Function):
    """(x₁, x₂) → (x₁ cos - x₂ sin, x₂ cos + x₁ sin) on the halves of the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turn(upstream[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    turned = x * cos
    (first, second), (x1, x2) = turned.chunk(2, dim=-1), x.chunk(2, dim=-1)
    first.addcmul_(x2, sin, value=-sign)
    second.addcmul_(x1, sin, value=sign)
    return turned


class MultiHeadAttention(plain_attention.MultiHeadAttention):
    """Attention that normalises and rotates queries and keys together, as if they were twice the heads."""

    def look(
        self,
        x: Float[Tensor, "B T C"],
        *,
        context: Float[Tensor, "B S C"] | None = None,
        mask: Bool[Tensor, "... T S"] | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B H T S"] | None]:
        """As the plain layer's."""
        if not self.config.fused_qkv or context is not None:
            return super().look(x, context=context, mask=mask, rotate=rotate, cache=cache)
        C, H = self.config.width, self.config.n_head
        both, v = self.qkv(x).split([2 * C, C], dim=-1)
        qk, v = split_heads(both, 2 * H), split_heads(v, H)
        if self.config.qk_norm:
            qk = rms_norm(qk)
        if rotate is not None:
            qk = rotate(qk)
        q, k = qk.chunk(2, dim=1)
        if cache is not None:
            k, v = cache.extend(k, v)
        mixed, weights = self.kernel(q, k, v, causal=self.config.causal, mask=mask, dropout=self.dropout)
        return self.output(merge_heads(mixed)), weights


PARTS = ("norm", "activation", "positions", "attention")  # those that may have a twin here


def fast(config: GPTConfig) -> GPTConfig:
    """``config`` with the fast twin of each part that has one, and the fused attention kernel."""
    twins = {f: f"{__name__}:{getattr(config, f)}" for f in PARTS if hasattr(sys.modules[__name__], getattr(config, f))}
    kernel = "sdpa" if config.kernel == "plain" else config.kernel
    return dataclasses.replace(config, kernel=kernel, **twins)  # type: ignore[arg-type]
