"""The baselines for attention: same seed, same figures; the closed forms they claim; the breaks act on them as declared."""

import dataclasses
import math

import pytest
import torch

from underhood.base.config import override
from underhood.data.tales import floor, generate
from underhood.lab.baseline import Baseline, get, in_file
from underhood.lab.baselines.attention import ONE_HEAD, RowsConfig, blind_loss, characters, properties, rows, softmax_jacobian, trained, within_values
from underhood.lab.patch import applied
from underhood.nn.gpt import GPTConfig, build_gpt
from underhood.projects.attention.breaks import BREAKS
from underhood.train.loss import cross_entropy

SHORT = dataclasses.replace(ONE_HEAD, steps=12, stories=100, check_batches=2)


def silent(step: int, **figures: float) -> None:
    pass


def by_name(name: str) -> Baseline:
    return get(f"attention.{name}")


@pytest.mark.parametrize("name", ["rows", "one_head"])
def test_the_same_seed_gives_the_same_figures_and_another_others(name: str) -> None:
    baseline = by_name(name)
    config = SHORT if name == "one_head" else baseline.config
    one, same, other = (baseline.run(config, seed, silent) for seed in (100, 100, 101))
    assert one == same
    assert one != other
    assert set(baseline.metrics) == set(one) - {"text"}


def test_every_figure_lies_between_its_floor_and_its_ceiling() -> None:
    for baseline, config in ((by_name("rows"), RowsConfig()), (by_name("one_head"), SHORT)):
        for name, value in baseline.run(config, 100, silent).items():
            metric = baseline.metrics.get(name)
            if metric and not isinstance(value, (bool, str)):
                assert metric.floor is None or value >= metric.floor - 1e-6, name
                assert metric.ceiling is None or value <= metric.ceiling + (1 if "loss" in name else 1e-6), name  # an untrained loss may exceed ln V


def test_the_loss_lies_between_the_entropy_of_the_stories_and_guessing() -> None:
    tokenizer, train_ids, val_ids = characters(1500)
    metric = by_name("one_head").metrics["val_loss"]
    assert metric.ceiling == pytest.approx(math.log(tokenizer.vocab_size), abs=0.02)
    assert metric.floor == pytest.approx(floor(generate(1500, seed=0)) * math.log(2), abs=0.01)  # bits per byte; all characters are one byte
    assert len(train_ids) > 16 * 32 * 600  # no character is read twice on average
    assert len(val_ids) > 8 * 16 * 64


def test_every_property_holds_for_the_healthy_layer() -> None:
    assert all(properties(RowsConfig(), 100).values())


EXACT = [b for b in BREAKS if b.baseline == "attention.rows" and not any(type(e).__name__ == "Crashes" for e in b.expect)]


@pytest.mark.parametrize("sabotage", EXACT, ids=lambda b: b.name)
def test_exact_predictions_hold(sabotage: object) -> None:
    healthy = rows(RowsConfig(), 100, silent)
    with applied(sabotage.patches):  # type: ignore[attr-defined]
        broken = rows(RowsConfig(), 100, silent)
    for expected in sabotage.expect:  # type: ignore[attr-defined]
        before, after = healthy[expected.metric], broken[expected.metric]
        held = {
            "Violates": lambda b=before, a=after: b is True and a is False,
            "Keeps": lambda b=before, a=after: b is True and a is True,
            "Rises": lambda b=before, a=after, e=expected: a - b >= e.by,
            "Falls": lambda b=before, a=after, e=expected: b - a >= e.by,
        }[type(expected).__name__]
        assert held(), expected


def test_every_trained_break_reaches_its_code() -> None:
    for sabotage in BREAKS:
        if sabotage.baseline == "attention.one_head" and sabotage.name != "mask_flipped":
            with applied(sabotage.patches) as reached:
                figures = trained(override(SHORT, {"steps": 2}), 100, silent)
            reached.require()
            for expected in sabotage.expect:
                assert expected.metric in figures


def test_softmax_jacobian_is_torchs() -> None:
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in scores:
        jacobian = torch.autograd.functional.jacobian(lambda s: s.softmax(-1), row)
        torch.testing.assert_close(softmax_jacobian(row.softmax(-1)), jacobian.norm())
    assert softmax_jacobian(torch.tensor([1.0, 0.0])).item() == 0
    assert softmax_jacobian(torch.tensor([0.5, 0.5])).item() == pytest.approx(0.5)


def test_within_values_by_hand() -> None:
    v = torch.tensor([[[0.0], [2.0]]])
    assert within_values(torch.tensor([[[0.0], [1.5]]]), v)
    assert not within_values(torch.tensor([[[0.5], [1.5]]]), v)  # position 0 sees value 0 alone


def test_blind_loss_is_the_loss_at_those_positions_for_a_causal_model() -> None:
    model = build_gpt(GPTConfig(vocab_size=9, context=16, n_layer=1, width=16, n_head=2, init="fan_in"), 0).eval()
    x, y = torch.randint(9, (2, 5, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = [4, 8, 12, 15]
        expected = torch.stack([cross_entropy(model(x)[:, e], y[:, e]) for e in ends]).mean()
        assert blind_loss(model, x, y) == pytest.approx(expected.item(), abs=1e-5)


def test_all_are_listed() -> None:
    assert [b.name for b in in_file("attention")] == ["attention.rows", "attention.one_head", "attention.four_layers"]
