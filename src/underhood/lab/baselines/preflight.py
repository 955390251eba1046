"""The healthy run behind the breaks of the warm-up: nine numbers that learn to tell three clouds of points apart, by measured slopes."""

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence

from underhood.base.rng import stream
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.scalar.warmup import dot, slope, softmax

CENTRES = ((-2.0, -1.0), (0.0, 0.0), (2.0, 1.0))  # in a row: the one in the middle cannot be told without a constant term
MOST = 2000  # the largest logit that is tried
Point = tuple[list[float], int]  # (x, y, 1) and the number of its cloud


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clouds:
    """Three clouds of points, and the row of three weights that scores each."""

    points: int = 30  # to learn from
    held_out: int = 300
    spread: float = 0.5  # the clouds touch: the best loss is above 0
    h: float = 1e-5  # of the measured slopes
    learning_rate: float = 1.0
    steps: int = 40  # the loss still falls, by less than a hundredth a step


def run(config: Clouds, seed: int, watch: Watch) -> Mapping[str, float | bool | str]:
    """Learn; then test each of the three functions alone."""
    train, held_out = (clouds(n, config.spread, stream(seed, name)) for n, name in ((config.points, "train"), (config.held_out, "held out")))
    rng = stream(seed, "init")
    weights = [[rng.uniform(-0.5, 0.5) for _ in range(3)] for _ in CENTRES]
    first = loss(weights, train)
    for step in range(config.steps):
        watch(step, loss=loss(weights, train))
        learn(weights, train, config)
    probe = stream(seed, "probe")
    return {
        "loss": loss(weights, train),
        "fell": first - loss(weights, train),
        "held_out_loss": loss(weights, held_out),
        "correct": sum(guess(weights, x) == kind for x, kind in held_out) / len(held_out),
        "moved": max(abs(w) for row in weights for w in row),
        "slope_error": slope_error(probe),
        "gain_of_half_the_width": width_error(0.2) / width_error(0.1),
        "largest_logit": largest_logit(),
        "sums_to_one": all(abs(sum(softmax([z * 10 for z in scores(weights, x)])) - 1) < 1e-9 for x, _ in held_out),
        "refuses_unequal_lengths": refuses_unequal_lengths(),
    }


def clouds(n: int, spread: float, rng: random.Random) -> list[Point]:
    """``n`` points, from each cloud in turn; the third coordinate is the constant 1."""
    found = []
    for i in range(n):
        x, y = CENTRES[i % 3]
        found.append(([x + rng.gauss(0, spread), y + rng.gauss(0, spread), 1.0], i % 3))
    return found


def scores(weights: Sequence[Sequence[float]], x: Sequence[float]) -> list[float]:
    """One logit for each cloud: a dot product each."""
    return [dot(row, x) for row in weights]


def guess(weights: Sequence[Sequence[float]], x: Sequence[float]) -> int:
    """The cloud with the highest logit."""
    found = scores(weights, x)
    return found.index(max(found))


def loss(weights: Sequence[Sequence[float]], points: Sequence[Point]) -> float:
    """The mean of −ln(probability of the right cloud)."""
    return -sum(math.log(max(softmax(scores(weights, x))[kind], 1e-300)) for x, kind in points) / len(points)


def learn(weights: list[list[float]], points: Sequence[Point], config: Clouds) -> None:
    """One step of gradient descent: every weight moves against its measured slope, all at once."""
    slopes = [[slope(along(weights, points, i, j), weights[i][j], config.h) for j in range(3)] for i in range(3)]
    for row, downhill in zip(weights, slopes, strict=True):
        for j, s in enumerate(downhill):
            row[j] -= config.learning_rate * s


def along(weights: list[list[float]], points: Sequence[Point], i: int, j: int) -> Callable[[float], float]:
    """The loss as a function of one weight."""

    def f(value: float) -> float:
        moved = [list(row) for row in weights]
        moved[i][j] = value
        return loss(moved, points)

    return f


def slope_error(rng: random.Random) -> float:
    """The largest relative error of the slope of exp, which is exp, at twenty places."""
    return max(abs(slope(math.exp, x) / math.exp(x) - 1) for x in (rng.uniform(-2, 2) for _ in range(20)))


def width_error(h: float) -> float:
    """How far a slope of that width is off, for exp at 0, whose slope is 1."""
    return abs(slope(math.exp, 0.0, h) - 1)


def largest_logit() -> int:
    """The largest whole number z for which softmax of (z, 0) gives an answer, as far as ``MOST``."""
    for z in range(MOST + 1):
        try:
            softmax([float(z), 0.0])
        except OverflowError:
            return z - 1
    return MOST


def refuses_unequal_lengths() -> bool:
    """Whether a dot product of three numbers with two is an error."""
    try:
        dot([1.0, 2.0, 3.0], [1.0, 2.0])
    except ValueError:
        return True
    return False


BASELINES = (
    Baseline(
        name="preflight.clouds",
        says="three clouds of points told apart by nine weights: dot products, softmax, gradient descent by measured slopes",
        run=run,
        config=Clouds(),
        metrics={
            "loss": Metric(says="−ln(probability of the right cloud), mean over the 30 points", floor=0.0, ceiling=math.log(3), smallest=0.005, tolerance=1e-6),
            "fell": Metric(says="loss before learning minus loss after", smallest=0.005, better="higher"),
            "held_out_loss": Metric(says="the same on 300 other points", floor=0.0, ceiling=math.log(3), smallest=0.005, tolerance=1e-6),
            "correct": Metric(says="share of 300 other points put into the right cloud", floor=1.0, ceiling=1 / 3, smallest=0.01, better="higher"),
            "moved": Metric(says="the largest weight after learning", smallest=0.01, better="neither"),
            "slope_error": Metric(says="largest relative error of the slope of exp", floor=0.0, smallest=1e-8, tolerance=1.0),
            "gain_of_half_the_width": Metric(says="how many times smaller the error of a slope is at half the width", smallest=0.1, better="neither"),
            "largest_logit": Metric(says=f"largest logit that softmax takes, of those up to {MOST}", floor=MOST, smallest=1, better="higher"),
            "sums_to_one": Metric(says="the shares of softmax sum to 1", better="higher"),
            "refuses_unequal_lengths": Metric(says="a dot product of lists of different lengths is an error", better="higher"),
        },
        seconds=0.2,
    ),
)
