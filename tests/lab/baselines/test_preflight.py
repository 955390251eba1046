"""The clouds of the warm-up: what is measured is what the words say, and the nine weights learn."""

import dataclasses
import math

import pytest

from underhood.base.rng import stream
from underhood.lab.baselines import preflight
from underhood.lab.patch import Edit, applied

WARMUP = "underhood.scalar.warmup"


def nothing(step: int, **figures: float) -> None:
    """A watch that looks away."""


def test_weights_of_zero_know_nothing_and_learning_lowers_the_loss() -> None:
    points = preflight.clouds(30, 0.5, stream(0, "train"))
    weights = [[0.0] * 3 for _ in preflight.CENTRES]
    assert [kind for _, kind in points[:4]] == [0, 1, 2, 0]
    assert preflight.loss(weights, points) == pytest.approx(math.log(3))
    before = preflight.loss(weights, points)
    preflight.learn(weights, points, preflight.Clouds())
    assert preflight.loss(weights, points) < before


def test_the_same_seed_gives_the_same_figures_and_a_useless_width_gives_none() -> None:
    config = preflight.Clouds(steps=5)
    assert preflight.run(config, 100, nothing) == preflight.run(config, 100, nothing)
    stuck = preflight.run(dataclasses.replace(config, h=1e-20), 100, nothing)
    assert float(stuck["fell"]) == pytest.approx(0, abs=1e-2)


def test_each_exact_figure_sees_its_break() -> None:
    assert (preflight.largest_logit(), preflight.refuses_unequal_lengths()) == (preflight.MOST, True)
    with applied((Edit(f"{WARMUP}:softmax", "z - highest", "z"), Edit(f"{WARMUP}:dot", "strict=True", "strict=False"))):
        assert preflight.largest_logit() == 709  # the natural logarithm of the largest float is 709.78
        assert not preflight.refuses_unequal_lengths()
    assert preflight.width_error(0.1) == pytest.approx(0.1**2 / 6, rel=0.01)
