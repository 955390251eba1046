"""The block baselines: figures are what the metrics say, the exact ones hold, and what tells one part from another does."""

import dataclasses
from typing import Any

import pytest
import torch

from underhood.lab.baseline import get
from underhood.lab.baselines import block
from underhood.lab.patch import Set, applied, configure
from underhood.nn.gpt import build_gpt
from underhood.projects.registry import find_break

IDS = torch.randint(1024, (2, 16), generator=torch.Generator().manual_seed(0))


def unwatched(step: int, **figures: float) -> None:
    """Nobody looks."""


def shorter(config: Any) -> Any:
    """Two steps of it."""
    if isinstance(config, block.SmallConfig):
        return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2), check_windows=4)
    if isinstance(config, block.SeamConfig):
        return dataclasses.replace(config, small=shorter(config.small))
    return dataclasses.replace(config, steps=2, check_windows=4) if isinstance(config, block.ForeignConfig) else config


@pytest.mark.parametrize("baseline", block.BASELINES, ids=lambda b: b.name)
def test_figures_have_metrics_and_the_exact_ones_hold(baseline: Any) -> None:
    figures = baseline.run(shorter(baseline.config), 100, unwatched)
    assert set(baseline.metrics) <= {name for name, value in figures.items() if not isinstance(value, str)}
    learned = {"only_distance_counts"} if baseline.name == "block.post" and figures["only_distance_counts"] is not True else set()
    assert all(value for name, value in figures.items() if isinstance(value, bool) and name not in learned)


def test_exchanging_a_norm_for_its_own_kind_changes_nothing() -> None:
    config = shorter(get("block.seam").config)
    figures = block.cross_seam(config, 100, unwatched)
    assert figures["val_loss"] == figures["before_loss"]
    crossed = block.cross_seam(configure(config, [Set("above", "RMSNorm")]), 100, unwatched)
    assert crossed["before_loss"] == figures["before_loss"]
    assert crossed["val_loss"] != figures["val_loss"]


def test_shifting_all_positions_is_felt_by_what_is_added_and_by_turned_values() -> None:
    assert block.ignores_shift(build_gpt(block.SMALL, 0), IDS)
    assert not block.ignores_shift(build_gpt(dataclasses.replace(block.SMALL, positions="Sinusoidal"), 0), IDS)
    _, broken = find_break("block.values_turned")
    with applied(broken.patches):
        assert not block.ignores_shift(build_gpt(block.SMALL, 0), IDS)


def test_inner_figures_tell_the_parts_apart() -> None:
    def of(**changes: Any) -> dict[str, float]:
        return block.inner_figures(build_gpt(dataclasses.replace(block.SMALL, **changes), 0), IDS)

    assert of()["constant_felt"] > 0.1
    assert of(norm="LayerNorm")["constant_felt"] < 1e-4
    assert of(feedforward="FeedForward", activation="relu_squared")["hidden_min"] == 0
    assert -0.171 < of(feedforward="FeedForward", activation="gelu_tanh")["hidden_min"] < -0.1
    assert of(qk_norm=True)["largest_score"] <= 32**0.5 + 1e-4
