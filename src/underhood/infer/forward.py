"""The model on texts of different lengths at once.

``hidden_at`` takes a flat list of tokens, each with its own position: nothing is padded, and what a token sees is up to the cache of each layer.
``hidden_padded`` takes a rectangle with filler on either side, as ``transformers`` does. Both give each text what it gets alone.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from underhood.base.errors import ShapeError
from underhood.infer.cache import StaticCache
from underhood.nn.attention import LayerCache
from underhood.nn.gpt import GPT
from underhood.nn.positions import Learned, Positions, Rotary, Sinusoidal, rotate
from underhood.nn.rope import ScaledRotary

Rotate = Callable[[Tensor], Tensor]


def hidden_at(model: GPT, ids: Int[Tensor, "N"], at: Int[Tensor, "N"], layers: Sequence[LayerCache]) -> Float[Tensor, "N C"]:
    """The residual stream after the final norm for N tokens of any texts, token i standing at position ``at[i]`` of its own.

    ``layers[l].extend(k, v)`` gets the keys and values of all N tokens, (1 G N D), and returns what the model's kernel reads. Raises ``ShapeError`` beyond
    the context.
    """
    _require_context(model, at)
    x = model.tokens(ids.unsqueeze(0))
    rotation = turn_at(model.positions, at, x)
    x = add_at(model.positions, x, at.unsqueeze(0))
    for block, layer in zip(model.blocks, layers, strict=True):
        x = block(x, rotate=rotation, cache=layer)
    hidden: Tensor = model.norm(x)[0]
    return hidden


def hidden_padded(model: GPT, ids: Int[Tensor, "B T"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
    """The same for rows with filler where ``real`` is False, at the front, at the end, or both. What stands at a filler's place means nothing.

    Positions count real tokens only, and nobody looks at filler but the filler itself.
    """
    at = (real.long().cumsum(-1) - 1).clamp(min=0)
    _require_context(model, at)
    x = model.tokens(ids.where(real, 0))
    rotation = turn_at(model.positions, at, x)
    x = add_at(model.positions, x, at)
    mask = real[:, None, None, :] | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    for block in model.blocks:
        x = block(x, mask=mask, rotate=rotation)
    return model.norm(x)  # type: ignore[no-any-return]


def hidden_static(model: GPT, ids: Int[Tensor, "B T"], cache: StaticCache) -> Float[Tensor, "B T C"]:
    """The same for ``ids`` that continue what a cache of constant shape holds; its unfilled places are masked."""
    start, T = cache.length, ids.shape[1]
    at = torch.arange(start, start + T)
    _require_context(model, at)
    x = model.tokens(ids)
    rotation = turn_at(model.positions, at, x)
    x = add_at(model.positions, x, at.expand(ids.shape))
    mask = cache.filled(T).expand(1, 1, T, -1)
    for block, layer in zip(model.blocks, cache.layers, strict=True):
        x = block(x, mask=mask, rotate=rotation, cache=layer)
    return model.norm(x)  # type: ignore[no-any-return]


def add_at(positions: Positions, x: Float[Tensor, "B T C"], at: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
    """``positions.add`` for tokens that stand anywhere."""
    if isinstance(positions, (Learned, Sinusoidal)):
        table = positions.table.weight if isinstance(positions, Learned) else positions.table
        return x + table[at].to(x.dtype)
    return x


def turn_at(positions: Positions, at: Int[Tensor, "... T"], like: Tensor) -> Rotate | None:
    """``positions.rotation`` for tokens that stand anywhere: ``at`` is (T), or (B T) with a row's own positions."""
    if isinstance(positions, ScaledRotary):
        turn = positions.turn(at, int(at.max()) + 1, like)
        cos, sin = turn.cos, turn.sin
    elif isinstance(positions, Rotary):
        angles = positions.angles[at]
        cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
    else:
        return None
    if at.ndim == 2:  # a head's axis stands between rows and positions
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return lambda x: rotate(x, cos, sin)


def _require_context(model: GPT, at: Tensor) -> None:
    if at.numel() == 0:
        raise ShapeError("no tokens", expected="at least one")
    last = int(at.max()) + 1
    if last > model.config.context:
        raise ShapeError(f"{last} tokens", expected=f"at most {model.config.context}, the model's context")
