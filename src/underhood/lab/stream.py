"""The residual stream, layer by layer: how large it is, how much each block adds, and how much of it lies in its mean.

A pre-norm stream only grows, since every block adds to it; a post-norm one is put back to size twice a block.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxtyping import Int
from torch import Tensor

from underhood.lab.probe import at_rest
from underhood.lab.report_plots import named_curves
from underhood.nn.gpt import GPT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """The stream after one block (the first entry: before the first block), as means over positions."""

    mean_square: float
    mean_share: float  # (mean over the width)² / mean square: what LayerNorm takes away and RMSNorm keeps
    update_ratio: float  # |what the block added| / |the stream before it|; 0 in the first entry


def residual_stream(model: GPT, ids: Int[Tensor, "B T"]) -> list[Layer]:
    """One entry before the first block and one after each."""
    seen: list[Tensor] = []
    first = model.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    hooks = [first, *(block.register_forward_hook(lambda block, args, out: seen.append(out)) for block in model.blocks)]
    try:
        with at_rest(model):
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return [_layer(seen[max(0, i - 1)], x) for i, x in enumerate(seen)]


def _layer(before: Tensor, x: Tensor) -> Layer:
    square = x.square().mean(-1)
    added = (x - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12)
    return Layer(mean_square=float(square.mean()), mean_share=float((x.mean(-1).square() / square.clamp(min=1e-12)).mean()), update_ratio=float(added.mean()))


def stream_plot(streams: Mapping[str, Sequence[Layer]]) -> str:
    """Mean square over depth as inline SVG, one curve a model; logarithmic where it grows much."""
    return named_curves({name: [(float(i), layer.mean_square) for i, layer in enumerate(s)] for name, s in streams.items()}, "mean square of the stream")
