"""The loop baselines: figures are what the metrics say, and the exact ones hold."""

import dataclasses

import torch

from underhood.lab.baselines import gpt, loop
from underhood.lab.patch import applied
from underhood.projects.registry import find_break
from underhood.train.loss import IGNORE


def unwatched(step: int, **figures: float) -> None:
    """Nobody looks."""


def test_figures_have_metrics_and_the_exact_ones_hold() -> None:
    for baseline in loop.BASELINES[:-1]:
        config = dataclasses.replace(baseline.config, train=dataclasses.replace(baseline.config.train, steps=2), check_windows=4)
        figures = baseline.run(config, 100, unwatched)
        assert {name for name, value in figures.items() if not isinstance(value, str)} == set(baseline.metrics)
        assert all(value for value in figures.values() if isinstance(value, bool))
        assert figures["repeats"] == 0


def test_recorded_counts_repeats_and_cuts_targets() -> None:
    text = gpt.tales()
    recorded = loop.Recorded(gpt.random_batches(text.train, 16, 2, 100), ragged=100)
    first = [recorded.next() for _ in range(3)]
    lengths = {int((y != IGNORE).sum(1)[0]) for _, y in first}
    assert len(lengths) > 1
    recorded.load_state({"step": 0})
    assert torch.equal(recorded.next()[0], first[0][0])
    assert recorded.repeats == 1


def test_targets_of_other_rows_are_seen() -> None:
    """The break that the first record of it did not see, for the property looked at a single row."""
    text = gpt.tales()
    _, shuffled = find_break("loop.targets_shuffled")
    assert loop.targets_are_next(gpt.random_batches(text.train, 16, 4, 100))
    assert not loop.targets_are_next(gpt.random_batches(text.train, 16, 1, 100))  # one row shows nothing
    with applied(shuffled.patches):
        assert not loop.targets_are_next(gpt.random_batches(text.train, 16, 4, 100))


def test_gain_and_growth_see_what_they_are_for() -> None:
    model = gpt.build_gpt(loop.SMALL, 100)
    assert loop.mean_gain(model) == 1
    unscaled = gpt.build_gpt(dataclasses.replace(loop.SMALL, residual_init="plain"), 100)
    x = torch.arange(8)[None]
    assert loop.stream_growth(unscaled, x) > 1.3 * loop.stream_growth(model, x)
    assert loop.gains_are_free(model)
