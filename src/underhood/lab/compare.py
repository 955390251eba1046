"""Effect, interval and verdict: what paired seeds say about a prediction.

The effect is the mean of the paired differences (broken minus healthy, same seed) with a Student-t 95 % interval
(Student, "The probable error of a mean", Biometrika 1908). Every single difference is kept; there is no bootstrap:
with five seeds its "95 %" covers about 83 %.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from underhood.base.errors import UserError
from underhood.lab.sabotage import Crashes, Falls, Keeps, Prediction, Rises, Stays, Violates

ENOUGH_SEEDS = 5  # below this only a direction is printed, and no record is written

Verdict = Literal["held", "weaker", "opposite", "no effect", "inconclusive", "not held", "preview"]
REFUTED: tuple[Verdict, ...] = ("opposite", "no effect", "weaker", "not held")


@dataclasses.dataclass(frozen=True)
class Effect:
    """Mean paired difference with its 95 % interval; ``low`` and ``high`` are infinite for a single seed."""

    differences: tuple[float, ...]
    mean: float
    low: float
    high: float


def effect(healthy: Sequence[float], broken: Sequence[float]) -> Effect:
    """The paired effect of two equally long lists of figures, one pair a seed."""
    if len(healthy) != len(broken) or not healthy:
        raise UserError(f"{len(healthy)} healthy and {len(broken)} broken figures", expected="as many of one as of the other, at least one")
    differences = tuple(b - h for h, b in zip(healthy, broken, strict=True))
    n, mean = len(differences), math.fsum(differences) / len(differences)
    if n == 1:
        return Effect(differences, mean, -math.inf, math.inf)
    deviation = math.hypot(*(d - mean for d in differences)) / math.sqrt(n - 1)  # squares of a diverged run's figures would overflow
    half = t_quantile(0.975, n - 1) * deviation / math.sqrt(n)
    return Effect(differences, mean, mean - half, mean + half)


def t_cdf(t: float, df: int) -> float:
    """P(T ≤ t) of Student's distribution with ``df`` degrees of freedom (the finite series of Abramowitz & Stegun 26.7.3–4)."""
    theta = math.atan(t / math.sqrt(df))
    cosine, sine = math.cos(theta), math.sin(theta)
    if df % 2:
        term, total = cosine, cosine if df > 1 else 0.0
        for k in range(3, df - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        between = 2 / math.pi * (theta + sine * total)
    else:
        term = total = 1.0
        for k in range(2, df - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        between = sine * total
    return 0.5 + between / 2


def t_quantile(p: float, df: int) -> float:
    """The t with P(T ≤ t) = p, by bisection, for p ≥ 0.5."""
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One prediction with what was measured."""

    prediction: Prediction
    verdict: Verdict
    effect: Effect | None  # None for exact properties and crashes
    says: str  # one line in words


def judge_effect(prediction: Rises | Falls | Stays, found: Effect, *, smallest: float) -> Judgement:
    """The verdict on a prediction of size: see the table in the lab manual. ``smallest`` is the baseline's smallest interesting difference."""
    if len(found.differences) < ENOUGH_SEEDS:
        return Judgement(prediction, "preview", found, f"{_direction(found)} in {_agreeing(found)} of {len(found.differences)} seeds (preview)")
    text = f"{found.mean:+.4g} (95 % {found.low:+.4g} … {found.high:+.4g}, {len(found.differences)} seeds)"
    return Judgement(prediction, _verdict(prediction, found, smallest), found, text)


def _verdict(prediction: Rises | Falls | Stays, found: Effect, smallest: float) -> Verdict:
    if isinstance(prediction, Stays):
        if -prediction.within <= found.low and found.high <= prediction.within:
            return "held"
        return "opposite" if found.low > prediction.within or found.high < -prediction.within else "inconclusive"
    sign = 1 if isinstance(prediction, Rises) else -1
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0:
        return "held" if sign * found.mean >= prediction.by else "weaker"
    if high < 0:
        return "opposite"
    return "no effect" if max(abs(low), abs(high)) <= smallest else "inconclusive"


def _direction(found: Effect) -> str:
    return "up" if found.mean > 0 else "down" if found.mean < 0 else "unchanged"


def _agreeing(found: Effect) -> int:
    return sum((d > 0) == (found.mean > 0) and d != 0 for d in found.differences) if found.mean else sum(d == 0 for d in found.differences)


def judge_property(prediction: Violates | Keeps, healthy: Sequence[bool], broken: Sequence[bool]) -> Judgement:
    """An exact property needs no statistics: it holds or it does not, and every seed must agree."""
    wanted = isinstance(prediction, Keeps)
    good = all(healthy) and all(b is wanted for b in broken)
    text = f"holds in {sum(healthy)} of {len(healthy)} healthy, {sum(broken)} of {len(broken)} broken"
    return Judgement(prediction, "held" if good else "not held", None, text)


def judge_crash(prediction: Crashes, healthy: Sequence[str], broken: Sequence[str]) -> Judgement:
    """``healthy`` and ``broken`` are how each arm ended: ``"done"`` or the name of the error."""
    good = all(h == "done" for h in healthy) and all(b == prediction.error for b in broken)
    text = f"{sum(b == prediction.error for b in broken)} of {len(broken)} broken arms ended with {prediction.error}"
    return Judgement(prediction, "held" if good else "not held", None, text)
