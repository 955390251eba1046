"""Effect, interval and verdict: against tables, by cases, and by simulation."""

import math
import random
import statistics

import pytest

from underhood.base.errors import UserError
from underhood.lab.compare import Effect, effect, judge_crash, judge_effect, judge_property, t_cdf, t_quantile
from underhood.lab.sabotage import Crashes, Falls, Keeps, Rises, Stays, Violates


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (7, 2.36462), (9, 2.26216), (30, 2.04227), (100, 1.98397)]
)
def test_quantiles_are_those_of_the_printed_tables(df: int, quantile: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(quantile, rel=2e-6)
    assert t_cdf(t_quantile(0.975, df), df) == pytest.approx(0.975)


def test_the_distribution_in_closed_form() -> None:
    for t in (-3.0, -0.5, 0.0, 0.7, 4.0):
        assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi)  # Cauchy
        assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))


def test_an_effect_by_hand() -> None:
    """Differences 1, 2, 3, 4, 5: mean 3, deviation √2.5, half width 2.776 · √2.5 / √5 = 1.963."""
    found = effect([0, 0, 0, 0, 0], [1, 2, 3, 4, 5])
    assert found.differences == (1, 2, 3, 4, 5)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), rel=1e-5)


def test_pairs_cancel_what_the_seeds_share() -> None:
    healthy = [10.0, 20.0, 30.0, 40.0, 50.0]
    found = effect(healthy, [h + 1 for h in healthy])
    assert (found.low, found.mean, found.high) == (1, 1, 1)


def test_one_seed_has_no_interval_and_unequal_lists_are_refused() -> None:
    assert effect([1], [2]) == Effect((1,), 1, -math.inf, math.inf)
    for healthy, broken in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(UserError, match="at least one"):
            effect(healthy, broken)


@pytest.mark.parametrize("n", [5, 8])
def test_the_interval_covers_the_truth_in_95_of_100_experiments(n: int) -> None:
    rng, truth, trials = random.Random(n), 0.3, 8000
    covered = 0
    for _ in range(trials):
        healthy = [rng.gauss(0, 5) for _ in range(n)]
        found = effect(healthy, [h + rng.gauss(truth, 1) for h in healthy])
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / trials <= 0.97


def test_a_normal_interval_would_not_cover_it() -> None:
    """Negative control of the simulation: 1.96 in place of Student's 2.776 covers too little at five seeds."""
    rng, trials, covered = random.Random(0), 4000, 0
    for _ in range(trials):
        d = [rng.gauss(0.3, 1) for _ in range(5)]
        covered += abs(statistics.fmean(d) - 0.3) <= 1.96 * statistics.stdev(d) / math.sqrt(5)
    assert covered / trials < 0.93


def spread(low: float, mean: float, high: float, n: int = 5) -> Effect:
    return Effect((mean,) * n, mean, low, high)


@pytest.mark.parametrize(
    ("prediction", "found", "verdict"),
    [
        (Rises("m", by=0.1), spread(0.05, 0.1, 0.15), "held"),
        (Rises("m", by=0.1), spread(0.01, 0.09, 0.17), "weaker"),
        (Rises("m", by=0.1), spread(-0.3, -0.2, -0.1), "opposite"),
        (Rises("m", by=0.1), spread(-0.01, 0.0, 0.01), "no effect"),
        (Rises("m", by=0.1), spread(-0.01, 0.0, 0.03), "inconclusive"),
        (Rises("m", by=0.1), spread(0.0, 0.2, 0.4), "inconclusive"),
        (Falls("m", by=0.1), spread(-0.15, -0.1, -0.05), "held"),
        (Falls("m", by=0.1), spread(-0.17, -0.09, -0.01), "weaker"),
        (Falls("m", by=0.1), spread(0.1, 0.2, 0.3), "opposite"),
        (Falls("m", by=0.1), spread(-0.02, 0.0, 0.02), "no effect"),
        (Falls("m", by=0.1), spread(-0.3, -0.1, 0.1), "inconclusive"),
        (Stays("m", within=0.1), spread(-0.1, 0.0, 0.1), "held"),
        (Stays("m", within=0.1), spread(-0.05, 0.05, 0.15), "inconclusive"),
        (Stays("m", within=0.1), spread(0.11, 0.2, 0.3), "opposite"),
        (Stays("m", within=0.1), spread(-0.3, -0.2, -0.11), "opposite"),
        (Rises("m", by=0.1), spread(0.5, 0.6, 0.7, n=4), "preview"),
        (Stays("m", within=0.1), spread(0, 0, 0, n=1), "preview"),
    ],
)
def test_verdicts_case_by_case(prediction: Rises | Falls | Stays, found: Effect, verdict: str) -> None:
    assert judge_effect(prediction, found, smallest=0.02).verdict == verdict


def test_a_preview_tells_a_direction_only() -> None:
    found = judge_effect(Rises("m", by=0.1), effect([0, 0, 0], [1, 2, -1]), smallest=0.0)
    assert found.says == "up in 2 of 3 seeds (preview)"


def test_exact_properties_need_every_seed() -> None:
    yes, no, mixed = [True] * 5, [False] * 5, [True] * 4 + [False]
    assert judge_property(Violates("p"), yes, no).verdict == "held"
    assert judge_property(Violates("p"), yes, mixed).verdict == "not held"
    assert judge_property(Violates("p"), mixed, no).verdict == "not held"
    assert judge_property(Keeps("p"), yes, yes).verdict == "held"
    assert judge_property(Keeps("p"), yes, mixed).verdict == "not held"


def test_crashes_need_every_seed_and_the_named_error() -> None:
    done, nan = ["done"] * 5, ["NonFinite"] * 5
    assert judge_crash(Crashes("NonFinite"), done, nan).verdict == "held"
    assert judge_crash(Crashes("NonFinite"), done, [*nan[:4], "done"]).verdict == "not held"
    assert judge_crash(Crashes("NonFinite"), done, ["Timeout"] * 5).verdict == "not held"
    assert judge_crash(Crashes("NonFinite"), nan, nan).verdict == "not held"
