"""The healthy runs of project 16: exact properties hold, arms repeat, and what is measured is what the words say."""

import dataclasses
import math

import pytest
import torch

from underhood.base.errors import ShapeError
from underhood.lab.baselines import long_context as baseline
from underhood.lab.baselines.long_context import ExactConfig, LongConfig
from underhood.lab.patch import applied
from underhood.lab.sabotage import Keeps, Sabotage, Violates
from underhood.nn.gpt import build_gpt
from underhood.nn.rope import RopeConfig
from underhood.projects.long_context.breaks import BREAKS


def nothing(step: int, **figures: float) -> None:
    """A watch that looks away."""


def tiny(**changes: object) -> LongConfig:
    """A step of training each."""
    once = {name: dataclasses.replace(getattr(LongConfig(), name), steps=1) for name in ("reader", "keeper")}
    return dataclasses.replace(LongConfig(check_windows=2, check_ledgers=4), **once | changes)


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_properties_hold(seed: int) -> None:
    found = baseline.properties(ExactConfig(), seed, nothing)
    assert all(found[name] is True for name in baseline.PROPERTIES)
    assert 0 < float(found["two_layer_gap"]) < 0.1  # late turning is not exact beyond one layer, and the figure says so


def test_an_arm_reports_what_its_metrics_name_and_repeats() -> None:
    first, again = (baseline.read_long(tiny(), 0, nothing) for _ in range(2))
    assert first == again
    assert set(first) == set(baseline.LONG)
    assert first["causal"] is True
    assert first["attention_factor"] == pytest.approx(0.1 * math.log(4) + 1)


def test_positions_change_and_training_does_not() -> None:
    """The extension comes after training: what was learned is the same for every kind."""
    arms = {kind: baseline.read_long(tiny(extend=RopeConfig(kind=kind, factor=4, original_context=32)), 0, nothing) for kind in ("yarn", "default", "dynamic")}
    assert len({arm["train_loss"] for arm in arms.values()}) == 1
    assert len({arm["last_loss"] for arm in arms.values()}) == 3
    assert arms["default"]["attention_factor"] == 1


def test_tuning_trains_at_the_new_length() -> None:
    config = tiny(tuning=2)
    reader, keeper = (baseline.longer(build_gpt(model, 0), config) for model in (baseline.READER, baseline.KEEPER))
    before = [p.clone() for model in (reader, keeper) for p in model.parameters()]
    baseline.tune(reader, keeper, config, 0)
    after = [p for model in (reader, keeper) for p in model.parameters()]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_a_table_that_ends_is_loud() -> None:
    with pytest.raises(ShapeError, match="at most 32"):
        baseline.read_long(tiny(positions="underhood.nn.positions:Learned", extend=None), 0, nothing)


def test_ledgers_go_on_where_they_were() -> None:
    source = baseline.Ledgers(32, 2, 0)
    source.next()
    state = source.state().clone()
    x, _ = source.next()
    source.load_state(state)
    assert torch.equal(source.next()[0], x)
    assert not torch.equal(source.next()[0], x)


@pytest.mark.parametrize("broken", [b for b in BREAKS if b.baseline == "long_context.exact"], ids=lambda b: b.name)
def test_an_exact_break_does_what_it_says(broken: Sabotage) -> None:
    with applied(broken.patches):
        found = baseline.properties(ExactConfig(), 100, nothing)
    for prediction in broken.expect:
        if isinstance(prediction, (Violates, Keeps)):
            assert found[prediction.metric] is isinstance(prediction, Keeps), prediction
