"""From breaks to results: which arms run, and how missing figures are judged."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from underhood.lab.baseline import Baseline
from underhood.lab.experiment import experiment, judge, plan
from underhood.lab.patch import Edit, Set
from underhood.lab.run import Arm
from underhood.lab.sabotage import Above, Below, Claim, Crashes, Keeps, Rises, Sabotage, Violates

LIFT = Edit("arms_of_tests:lifted", "x + lift", "x + 5")


def sabotage(**values: Any) -> Sabotage:
    given = {"name": "lifted", "says": "…", "kind": "part", "patch": LIFT, "baseline": "arms_of_tests:TINY", "look": "", "expect": (Rises("loss", by=1),)}
    return Sabotage(**{**given, **values})


def test_healthy_arms_are_shared_and_claims_have_their_own(tiny: Baseline) -> None:
    claim = Claim(says="…", source="…", baseline="arms_of_tests:TINY", expect=(Rises("loss", by=1),))
    two = [("p.one", sabotage(claim=claim)), ("p.two", sabotage(name="two", patch=Set("lift", 1.0)))]
    assert [j.label for j in plan(two, range(5))] == ["healthy", "p.one", "p.two"]  # the claim's setting is the same here
    moved = plan(two, range(5), settings={"lift": 0.5})
    assert [(j.label, j.baseline.config.lift) for j in moved] == [("healthy", 0.5), ("healthy", 0.0), ("p.one", 0.5), ("p.two", 0.5), ("p.one", 0.0)]


def test_an_experiment_end_to_end(tiny: Baseline, tmp_path: Path) -> None:
    expect = (Rises("loss", by=4.9), Violates("sane"))
    claim = Claim(says="…", source="…", baseline="arms_of_tests:TINY", expect=(Rises("loss", by=6),))
    breaks = [
        ("p.lifted", sabotage(expect=expect, probe=Above("loss", 3.0), claim=claim)),
        ("p.dead", sabotage(name="dead", patch=Set("trouble", "nan"), expect=(Crashes("NonFinite"),))),
    ]
    lifted, dead = experiment(breaks, range(5), tmp_path, workers=2)
    assert [j.verdict for j in lifted.trial.judgements] == ["held", "held"]
    assert lifted.trial.judgements[0].effect is not None
    assert lifted.trial.judgements[0].effect.mean == pytest.approx(5)
    assert lifted.separates is True
    assert lifted.claim is not None
    assert lifted.claim.judgements[0].verdict == "weaker"
    assert [j.verdict for j in dead.trial.judgements] == ["held"]
    assert dead.separates is None


def test_settings_change_both_arms(tiny: Baseline, tmp_path: Path) -> None:
    [found] = experiment([("p.lifted", sabotage(claim=None))], range(2), tmp_path, workers=1, settings={"lift": 0.5})
    plain = experiment([("p.lifted", sabotage(claim=None))], range(2), tmp_path, workers=1)[0]
    healthy, broken = found.trial.pairs("loss")
    before, after = plain.trial.pairs("loss")
    assert [h - b for h, b in zip(healthy, before, strict=True)] == pytest.approx([0.5, 0.5])
    assert broken == after  # the edit no longer looks at lift


def test_fresh_measures_again(tiny: Baseline, tmp_path: Path) -> None:
    pids = [
        experiment([("p.lifted", sabotage())], range(1), tmp_path, workers=1, fresh=fresh)[0].trial.healthy[0].figures["pid"] for fresh in (False, False, True)
    ]
    assert pids[0] == pids[1] != pids[2]


def arms(how: str, **figures: float | bool) -> list[Arm]:
    return [Arm(label="x", baseline="b", seed=s, how=how, figures=dict(figures)) for s in range(5)]


def test_a_missing_figure_enters_by_rule_and_never_as_zero(tiny: Baseline) -> None:
    healthy, ended = arms("done", loss=1.5, sane=True), arms("NonFinite")
    assert judge(Rises("loss", by=1), tiny, healthy, ended).effect.mean == pytest.approx(7.5)  # type: ignore[union-attr]
    assert judge(Keeps("sane"), tiny, healthy, ended).verdict == "not held"
    bare = dataclasses.replace(tiny, metrics={**tiny.metrics, "loss": dataclasses.replace(tiny.metrics["loss"], worst=None)})
    found = judge(Rises("loss", by=1), bare, healthy, ended)
    assert (found.verdict, found.effect) == ("inconclusive", None)
    assert "5 arms ended without this figure (NonFinite)" in found.says


def test_the_worst_value_never_flatters_an_arm_that_was_worse_before_it_ended(tiny: Baseline) -> None:
    diverged = Arm(label="x", baseline="b", seed=0, how="NonFinite", curve=[{"step": 3, "loss": 50.0}])
    assert diverged.figure("loss", tiny) == 50.0
    rising = dataclasses.replace(tiny, metrics={"loss": dataclasses.replace(tiny.metrics["loss"], better="higher", worst=0.0)})
    assert diverged.figure("loss", rising) == 0.0


@pytest.mark.parametrize(
    ("probe", "separates"), [(Above("loss", 3.0), True), (Above("loss", 0.5), False), (Below("loss", 3.0), False), (Above("loss", math.inf), False)]
)
def test_a_probe_must_tell_every_seed(tiny: Baseline, tmp_path: Path, probe: Above | Below, separates: bool) -> None:
    assert experiment([("p.lifted", sabotage(probe=probe))], range(2), tmp_path, workers=2)[0].separates is separates
