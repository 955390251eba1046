"""The residual stream of a pre-norm and of a post-norm model, layer by layer, for the report page of ``underhood run block``."""

import dataclasses

from underhood.lab.baseline import get
from underhood.lab.baselines.block import SmallConfig, fit
from underhood.lab.baselines.gpt import tales, windows
from underhood.lab.report import Section, paragraph, table
from underhood.lab.stream import Layer, residual_stream, stream_plot

CONFIG: SmallConfig = get("block.post").config


def sections(config: SmallConfig = CONFIG, seed: int = 0) -> list[Section]:
    """Train both orders of norm and sum for the same steps, and show what becomes of the stream."""
    streams = {name: _stream(config, block, seed) for name, block in (("post-norm", "PostNormBlock"), ("pre-norm", "Block"))}
    says = (
        f"Six blocks of width {config.model.width} after {config.train.steps} steps on tales. Left is the stream before the first block, then after each. "
        "In pre-norm every block adds, and nothing is ever taken away; the later a block, the smaller the share that it changes. In post-norm each "
        "block ends with a norm, so that every position comes out at the size that the norm's gain says."
    )
    head = ("after block", *(f"{name}: {what}" for name in streams for what in ("mean square", "share in the mean", "added")))
    return [Section("What becomes of the residual stream", paragraph(says) + stream_plot(streams) + table(head, _rows(streams)))]


def _stream(config: SmallConfig, block: str, seed: int) -> list[Layer]:
    model, _ = fit(
        dataclasses.replace(config, model=dataclasses.replace(config.model, block=f"underhood.nn.block:{block}")), seed, lambda step, **figures: None
    )
    return residual_stream(model, windows(tales().val, config.window, 16)[0][0])


def _rows(streams: dict[str, list[Layer]]) -> list[tuple[float, ...]]:
    return [(i, *(v for layer in layers for v in _figures(layer))) for i, layers in enumerate(zip(*streams.values(), strict=True))]


def _figures(layer: Layer) -> tuple[float, ...]:
    return round(layer.mean_square, 2), round(layer.mean_share, 3), round(layer.update_ratio, 2)
