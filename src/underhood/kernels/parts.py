"""A model's parts as the compiled decoder wants them: which it knows, and their weights as arrays that share the model's memory where they can.

A part that is not known exactly, a subclass too, is a ``ConfigError``: the caller uses the model itself.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.kernels import matvec
from underhood.kernels.layer import NONE, Array, HeadNorm, Layer, Linear, Norm
from underhood.nn import activation, attention, fast, grouped, norm, positions, rope
from underhood.nn.block import Block
from underhood.nn.feedforward import FeedForward, GatedFeedForward
from underhood.nn.gpt import GPT
from underhood.nn.llama import LlamaBlock

T = TypeVar("T")
Precision = Literal["float32", "bfloat16"]
CENTRED = {norm.LayerNorm: True, fast.LayerNorm: True} | dict.fromkeys([norm.RMSNorm, fast.RMSNorm, norm.BareRMSNorm, fast.BareRMSNorm], False)
MULTI_HEAD = (attention.MultiHeadAttention, fast.MultiHeadAttention)
LEARNED, TURNING = (positions.Learned, positions.Sinusoidal), (positions.Rotary, fast.Rotary, rope.ScaledRotary)
ACTIVATIONS: dict[Any, int] = {
    activation.gelu: matvec.GELU,
    fast.gelu: matvec.GELU,
    activation.gelu_tanh: matvec.GELU_TANH,
    fast.gelu_tanh: matvec.GELU_TANH,
    activation.silu: matvec.SILU,
    fast.silu: matvec.SILU,
    activation.relu: matvec.RELU,
    activation.relu_squared: matvec.RELU_SQUARED,
    fast.relu_squared: matvec.RELU_SQUARED,
}


def known(field: str, part: Any, table: Mapping[Any, T]) -> T:
    """What ``table`` holds for ``part``."""
    if part not in table:
        name = getattr(part, "__qualname__", repr(part))
        raise ConfigError(f"{name} is not compiled", where=field, expected=", ".join(sorted({p.__name__ for p in table})), remedy="Use the model itself.")
    return table[part]


def matrix(weight: Tensor, precision: Precision) -> Array:
    """(O, I) as the kernels read it; the model's own memory where the dtype is the same."""
    wanted = weight.detach().to(torch.float32 if precision == "float32" else torch.bfloat16).contiguous()
    array: Array = (wanted if precision == "float32" else wanted.view(torch.uint16)).numpy()
    return array


def vector(values: Tensor | None) -> Array:
    """A bias or a gain; empty for None."""
    array: Array = NONE if values is None else values.detach().float().contiguous().numpy()
    return array


def read_block(block: Any, precision: Precision) -> Layer:
    """One block's weights and how it computes."""
    known("block", type(block), dict.fromkeys([Block, LlamaBlock]))
    attend, feed = block.attention, block.feedforward
    known("attention", type(attend), dict.fromkeys([*MULTI_HEAD, grouped.GroupedQueryAttention]))
    known("feedforward", type(feed), dict.fromkeys([FeedForward, GatedFeedForward]))
    if not attend.config.causal:
        raise ConfigError("attention that sees the future is not compiled", where="causal", remedy="Use the model itself.")
    fused = type(attend) in MULTI_HEAD and attend.config.fused_qkv
    return Layer(
        norm1=read_norm(block.norm1),
        qkv=tuple(_linear(part, precision) for part in ((attend.qkv,) if fused else (attend.query, attend.key, attend.value))),
        head_norm=_head_norm(attend),
        kv_heads=attend.config.kv_heads,
        head_width=attend.config.head_width,
        window=attend.config.window or 0,
        output=_linear(attend.output, precision),
        norm2=read_norm(block.norm2),
        gate=_linear(feed.gate, precision) if type(feed) is GatedFeedForward else None,
        up=_linear(feed.up, precision),
        down=_linear(feed.down, precision),
        activation=known("activation", feed.activation, ACTIVATIONS),
    )


def read_norm(layer: Any) -> Norm:
    """A norm with its gain and shift, where it has them."""
    centred = known("norm", type(layer), CENTRED)
    return Norm(vector(getattr(layer, "weight", None)), vector(getattr(layer, "bias", None)), centred, float(layer.epsilon))


def _head_norm(layer: Any) -> HeadNorm:
    queries, keys = getattr(layer, "query_norm", None), getattr(layer, "key_norm", None)
    if queries is None or keys is None:
        return HeadNorm(layer.config.qk_norm, NONE, NONE, 1e-5)  # ``rms_norm``'s own epsilon
    return HeadNorm(True, vector(queries.weight), vector(keys.weight), float(queries.epsilon))


def _linear(layer: Any, precision: Precision) -> Linear:
    return Linear(matrix(layer.weight, precision), vector(layer.bias))


def read_positions(model: GPT) -> tuple[Tensor | None, tuple[Array, Array]]:
    """The table that is added to the token vectors, or None; cosines and sines (context, D/2) that turn queries and keys, or empty ones.

    How: a rotation turns (1 … 1, 0 … 0) into (cos, sin).
    """
    part: Any = model.positions
    nothing = np.empty((0, 0), np.float32)
    known("positions", type(part), dict.fromkeys([positions.Positions, *LEARNED, *TURNING]))
    if isinstance(part, LEARNED):
        return (part.table.weight if isinstance(part, positions.Learned) else part.table).detach().float(), (nothing, nothing)
    if not isinstance(part, TURNING):
        return None, (nothing, nothing)
    context, half = model.config.context, model.config.head_width // 2
    rotate = part.rotation(torch.zeros(1, context, 1), 0)
    if isinstance(rotate, rope.LateTurn):
        raise ConfigError("a rotation that changes with the length is not compiled", where="rope.kind", remedy="Use the model itself.")
    assert rotate is not None
    turned = rotate(torch.cat([torch.ones(1, 1, context, half), torch.zeros(1, 1, context, half)], dim=-1))[0, 0]
    cos, sin = (np.ascontiguousarray(t.numpy()) for t in turned.detach().chunk(2, dim=-1))
    return None, (cos, sin)
