"""The GPT baselines: figures are what the metrics say, one seed gives the same figures twice, and the exact ones hold."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from underhood.lab.baselines import gpt
from underhood.train.schedule import ScheduleConfig


def unwatched(step: int, **figures: float) -> None:
    """Nobody looks."""


WHOLE = gpt.tales  # before the fixture puts a smaller one in its place
SHORT = dataclasses.replace(
    gpt.TalesConfig(), train=dataclasses.replace(gpt.SHORT, steps=4, schedule=ScheduleConfig(warmup=2)), check_windows=8, pairs=10, words=5
)
RESUME = dataclasses.replace(gpt.ResumeConfig(), train=dataclasses.replace(gpt.SHORTER, steps=8), stop_at=4, check_windows=8)


@pytest.fixture(scope="module", autouse=True)
def small_text() -> Iterator[None]:
    """Few stories, so that the tests are quick."""
    text = WHOLE(stories=1500)
    patch = pytest.MonkeyPatch()
    patch.setattr(gpt, "tales", lambda: text)
    yield
    patch.undo()


def test_figures_have_metrics() -> None:
    for baseline, config in zip(gpt.BASELINES, (SHORT, gpt.PartsConfig(), RESUME), strict=True):
        figures = baseline.run(config, 100, unwatched)
        assert set(baseline.metrics) <= set(figures)
        assert {name for name, value in figures.items() if not isinstance(value, str)} <= set(baseline.metrics)


def test_parts_hold() -> None:
    for seed in (100, 101):
        assert all(gpt.properties(gpt.PartsConfig(), seed, unwatched).values())


def test_same_seed_same_figures_other_seed_others() -> None:
    first, again, other = (gpt.write_tales(SHORT, seed, unwatched) for seed in (100, 100, 101))
    assert first == again
    assert first["val_loss"] != other["val_loss"]


def test_resume_is_exact() -> None:
    figures = gpt.stop_and_resume(RESUME, 100, unwatched)
    assert figures["resume_is_exact"] is True
    assert figures["resume_gap"] == figures["resume_jump"] == figures["first_difference"] == 0
    assert figures["evaluation_repeats"] is figures["evaluation_is_exact"] is True


def test_the_stated_floor_is_that_of_the_text() -> None:
    assert WHOLE().floor == pytest.approx(gpt.FLOOR, abs=0.005)
    assert torch.tensor(gpt.UNIFORM).exp().item() == pytest.approx(gpt.VOCABULARY)
