"""A baseline: a named healthy run, sized for a laptop, on a task that can show what a break does.

``run(config, seed, watch)`` returns the run's figures by name: numbers, True/False for exact properties, text for what it wrote.
It calls ``watch(step, loss=…)`` as it goes, so that an arm which ends early keeps its curve so far.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from underhood.base.errors import UnknownName, UserError
from underhood.base.names import load


class Watch(Protocol):
    """Called by a baseline as it runs: ``watch(step, loss=1.2)``."""

    def __call__(self, step: int, **figures: float) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """What a figure means: its unit, the best and the worst it can be, and how small a difference is of no interest."""

    says: str
    floor: float | None = None  # the best reachable: the source's entropy, a closed form
    ceiling: float | None = None  # knowing nothing: the uniform loss, chance
    smallest: float = 0.0  # differences within ± this are "no effect"
    worst: float | None = None  # stands in for an arm that ended without a figure (NaN, time, memory)
    better: Literal["lower", "higher", "neither"] = "lower"
    tolerance: float = 1e-4  # relative, for re-running a healthy arm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A healthy run: its function, its config, what its figures mean, and about how long one arm takes on one thread."""

    name: str  # "file.name": the file under underhood/lab/baselines
    says: str
    run: Callable[[Any, int, Watch], Mapping[str, float | bool | str]]
    config: Any  # a frozen dataclass; what ``Set`` changes
    metrics: Mapping[str, Metric]
    seconds: float  # one arm, one thread of a 2-core machine, measured
    corpus: str = ""  # name, version and checksum of the data, when there is any


def get(name: str) -> Baseline:
    """The baseline called ``"file.name"``, or ``"module:NAME"`` for one that lives elsewhere. Raises ``UnknownName``."""
    if ":" in name:
        elsewhere = load(name)
        if not isinstance(elsewhere, Baseline):
            raise UserError(f"{name} is a {type(elsewhere).__name__}", expected="a Baseline")
        return dataclasses.replace(elsewhere, name=name)
    known = {b.name: b for b in in_file(name.partition(".")[0])}
    if name not in known:
        raise UnknownName("baseline", name, [b.name for f in files() for b in in_file(f)])
    return known[name]


def files() -> list[str]:
    """The files of baselines there are."""
    package = importlib.import_module("underhood.lab.baselines")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__))


def in_file(file: str) -> tuple[Baseline, ...]:
    """The baselines that one file declares in ``BASELINES``; none when there is no such file."""
    if file not in files():
        return ()
    found: tuple[Baseline, ...] = importlib.import_module(f"underhood.lab.baselines.{file}").BASELINES
    return found
