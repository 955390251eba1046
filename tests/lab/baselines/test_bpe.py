"""The tokenizer's healthy run: every exact property holds, the same seed gives the same figures, and each break shows what it is declared to show."""

import dataclasses
from typing import Any

import pytest

from underhood.lab.baselines.bpe import BASELINES, Tales, replays_merges, run, used_once
from underhood.lab.patch import applied
from underhood.lab.sabotage import Falls, Keeps, Rises, Sabotage, Set, Violates
from underhood.projects.bpe.breaks import BREAKS
from underhood.text.bpe import BPE

BASELINE = BASELINES[0]


def figures(seed: int = 100, config: Tales = BASELINE.config) -> dict[str, Any]:
    return dict(run(config, seed, lambda step, **figures: None))


@pytest.fixture(scope="module")
def healthy() -> dict[str, Any]:
    return figures()


def test_all_properties_hold_and_metrics_are_declared(healthy: dict[str, Any]) -> None:
    assert all(value for value in healthy.values() if isinstance(value, bool))
    assert {name for name, value in healthy.items() if not isinstance(value, str)} == set(BASELINE.metrics)
    assert 2.0 < healthy["bytes_per_token"] < 3.0


def test_same_seed_same_figures(healthy: dict[str, Any]) -> None:
    assert figures() == healthy
    assert figures(101)["bytes_per_token"] != healthy["bytes_per_token"]


@pytest.mark.parametrize("sabotage", BREAKS, ids=lambda sabotage: sabotage.name)
def test_each_break_moves_what_it_is_declared_to_move(sabotage: Sabotage, healthy: dict[str, Any]) -> None:
    """The direction only: the sizes are for the records."""
    settings = {patch.field: patch.value for patch in sabotage.patches if isinstance(patch, Set)}
    with applied([patch for patch in sabotage.patches if not isinstance(patch, Set)]):
        broken = figures(config=dataclasses.replace(Tales(), **settings))
    for expected in sabotage.expect:
        if isinstance(expected, (Rises, Falls)):
            assert (broken[expected.metric] > healthy[expected.metric]) == isinstance(expected, Rises)
        elif isinstance(expected, (Violates, Keeps)):
            assert broken[expected.metric] is isinstance(expected, Keeps)


def test_probes_by_hand() -> None:
    tokenizer = BPE([(64, 65)])
    assert replays_merges(tokenizer, "ab")
    assert used_once(tokenizer, ["aab", "ac"]) == pytest.approx(2 / 3)
