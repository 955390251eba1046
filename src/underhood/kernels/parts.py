"""A model's parts as the compiled decoder wants them: which it knows, and their weights as arrays that share the model's memory where they can.

A part that is not known exactly, a subclass too, is a ``ConfigError``: the caller uses the model itself.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from underhood.base.errors import ConfigError
from underhood.kernels import matvec
from underhood.kernels.layer import Array, Parts, Weights
from underhood.nn import activation, attention, fast, grouped, norm, positions, rope
from underhood.nn.block import Block
from underhood.nn.feedforward import FeedForward, GatedFeedForward
from underhood.nn.gpt import GPT
from underhood.nn.linear import Linear
from underhood.nn.llama import LlamaBlock

T = TypeVar("T")
Precision = Literal["float32", "bfloat16"]
NONE, NO_MATRIX = np.empty(0, np.float32), {"float32": np.empty((0, 0), np.float32), "bfloat16": np.empty((0, 0), np.uint16)}
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
    if precision == "float32":
        return weight.detach().float().contiguous().numpy()
    return weight.detach().bfloat16().contiguous().view(torch.uint16).numpy()


def vector(values: Tensor | None) -> Array:
    """A bias or a gain; empty for None."""
    return NONE if values is None else values.detach().float().contiguous().numpy()


def read_block(block: nn.Module, precision: Precision) -> tuple[Weights, Parts]:
    """One block's weights and how it computes."""
    known("block", type(block), dict.fromkeys([Block, LlamaBlock]))
    attend, feed = block.attention, block.feedforward
    centred = [known("norm", type(n), CENTRED) for n in (block.norm1, block.norm2)]
    queries, qk_norm = _read_attention(attend, precision)
    gate, bend = _read_feedforward(feed, precision)
    weights = Weights(
        **_gain(block.norm1, "1"), **_gain(block.norm2, "2"), **queries, **_linear("output", attend.output, precision),
        **gate, **_linear("up", feed.up, precision), **_linear("down", feed.down, precision))  # fmt: skip
    config = attend.config
    return weights, Parts(config.head_width, centred[0], float(block.norm1.epsilon), *qk_norm, bend, config.window or 0)


def _read_attention(layer: Any, precision: Precision) -> tuple[dict[str, Array], tuple[bool, float]]:
    """Queries, keys and values; whether queries and keys are normalised, and that norm's epsilon."""
    known("attention", type(layer), dict.fromkeys([*MULTI_HEAD, grouped.GroupedQueryAttention]))
    if not layer.config.causal:
        raise ConfigError("attention that sees the future is not compiled", where="causal", remedy="Use the model itself.")
    gains = [getattr(layer, f"{name}_norm", None) for name in ("query", "key")]
    names = ("query", "key", "value")
    if type(layer) in MULTI_HEAD and layer.config.fused_qkv:
        rows = layer.qkv.weight.chunk(3), (None,) * 3 if layer.qkv.bias is None else layer.qkv.bias.chunk(3)
    else:
        rows = tuple(zip(*((getattr(layer, n).weight, getattr(layer, n).bias) for n in names), strict=True))
    read = {n: matrix(w, precision) for n, w in zip(names, rows[0], strict=True)} | {f"{n}_bias": vector(b) for n, b in zip(names, rows[1], strict=True)}
    read |= {f"{n}_gain": NONE if g is None else vector(g.weight) for n, g in zip(names, gains, strict=False)}
    if gains[0] is not None:
        return read, (True, float(gains[0].epsilon))
    return read, (layer.config.qk_norm, 1e-5)  # of ``rms_norm``


def _read_feedforward(layer: Any, precision: Precision) -> tuple[dict[str, Array], int]:
    """The gate, if there is one, and the activation."""
    known("feedforward", type(layer), dict.fromkeys([FeedForward, GatedFeedForward]))
    bend = known("activation", layer.activation, ACTIVATIONS)
    if type(layer) is GatedFeedForward:
        return _linear("gate", layer.gate, precision), bend
    return {"gate": NO_MATRIX[precision], "gate_bias": NONE}, bend


def _linear(name: str, layer: Linear, precision: Precision) -> dict[str, Array]:
    return {name: matrix(layer.weight, precision), f"{name}_bias": vector(layer.bias)}


def _gain(layer: nn.Module, number: str) -> dict[str, Array]:
    gain, shift = (getattr(layer, name, None) for name in ("weight", "bias"))
    return {f"gain{number}": vector(gain), f"shift{number}": vector(shift)}


def read_norm(layer: nn.Module) -> Callable[[Array, Array], None]:
    """The norm as a function of input and output."""
    centred, parts = known("norm", type(layer), CENTRED), _gain(layer, "")
    epsilon = float(layer.epsilon)
    return lambda x, out: matvec.normalise(x, out, parts["gain"], parts["shift"], centred, epsilon)


def read_positions(model: GPT) -> tuple[Tensor | None, Array, Array]:
    """The table that is added to the token vectors, or None; cosines and sines (context, D/2) that turn queries and keys, or empty ones.

    How: a rotation turns (1 … 1, 0 … 0) into (cos, sin).
    """
    part, nothing = model.positions, NO_MATRIX["float32"]
    known("positions", type(part), dict.fromkeys([positions.Positions, *LEARNED, *TURNING]))
    if isinstance(part, LEARNED):
        return (part.table.weight if isinstance(part, positions.Learned) else part.table).detach().float(), nothing, nothing
    if not isinstance(part, TURNING):
        return None, nothing, nothing
    context, half = model.config.context, model.config.head_width // 2
    rotate = part.rotation(torch.zeros(1, context, 1), 0)
    if isinstance(rotate, rope.LateTurn):
        raise ConfigError("a rotation that changes with the length is not compiled", where="rope.kind", remedy="Use the model itself.")
    assert rotate is not None
    turned = rotate(torch.cat([torch.ones(1, 1, context, half), torch.zeros(1, 1, context, half)], dim=-1))[0, 0]
    cos, sin = (np.ascontiguousarray(t.numpy()) for t in turned.detach().chunk(2, dim=-1))
    return None, cos, sin
