"""Which declared break behaves exactly like a learner's part: compared on every check, each on its fixed inputs.

A fingerprint says for each check whether it held, and if not, at which assertion it stopped and what was found there, number by number within ``TOLERANCE``,
NaN positions included; of an exception its type, for its words are the learner's own. A match agrees with a break on every check that was run and differs
from healthy on one at least.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from underhood.lab.check import Check, CheckFailed
from underhood.lab.patch import applied
from underhood.projects.registry import Project, find_project
from underhood.workbench.judge import Outcome, inputs

TOLERANCE = 1e-5
EXCEPTION = re.compile(r"((?:\w+\.)*(?:\w*(?:Error|Exception)|NonFinite|NotWritten|StopIteration)): .*", re.DOTALL)
OBJECT = re.compile(r"<(?:[\w<>]+\.)+(\w+) object at 0x[0-9a-f]+>")  # the same class stands in another module on each side
DECIMAL = re.compile(r"(-?\d+\.\d*(?:e[-+]?\d+)?)")


class Mark(NamedTuple):
    """Where a check stopped, and what was found there."""

    says: str
    found: tuple[Any, ...]


Fingerprint = Mapping[str, Mark | None]  # check → None where it held


def of_outcomes(outcomes: Sequence[Outcome]) -> dict[str, Mark | None]:
    """The fingerprint of a learner's part; checks that could not be run are left out."""
    return {o.check.name: None if o.state == "holds" else Mark(o.says, numbers(o.found)) for o in outcomes if o.state in ("holds", "wrong")}


def of_break(slug: str, name: str) -> dict[str, Mark | None]:
    """The fingerprint of one of a project's breaks of code. Takes as long as the project's checks."""
    return {check.name: mark_of_break(slug, name, check.name) for check in find_project(slug).checks()}


@functools.cache
def mark_of_break(slug: str, name: str, check: str) -> Mark | None:
    """What one check finds under one break."""
    project = find_project(slug)
    with applied(project.find(name).patches):
        return _mark(next(c for c in project.checks() if c.name == check), project)


def matches(mine: Fingerprint, slug: str) -> list[str]:
    """The breaks that behave as ``mine`` does on all its checks; none when nothing is wrong.

    What failed in ``mine`` is compared first: few breaks fail there too, so few are put through the rest.
    """
    if all(mark is None for mark in mine.values()):
        return []
    by_failure = sorted(mine, key=lambda check: mine[check] is None)
    breaks = {s.patches: s.name for s in reversed(find_project(slug).breaks()) if s.kind == "part"}  # measured on several baselines, one patch is one break
    return [name for name in reversed(breaks.values()) if all(same(mine[check], mark_of_break(slug, name, check)) for check in by_failure)]


def agree(mine: Fingerprint, theirs: Fingerprint) -> bool:
    """Whether two fingerprints say the same of every check that ``mine`` has."""
    return all(same(mark, theirs.get(check)) for check, mark in mine.items())


def same(a: Mark | None, b: Mark | None) -> bool:
    """Whether two parts did alike in one check: both held, or both stopped at one assertion with the same found there."""
    if a is None or b is None:
        return a is b
    return a.says == b.says and len(a.found) == len(b.found) and all(map(near, a.found, b.found))


def near(a: Any, b: Any) -> bool:
    """Whether two numbers agree within ``TOLERANCE`` of the larger one, or of 1, NaN and NaN too; two texts when they are equal."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))
    return bool(a == b)


def numbers(value: Any) -> tuple[Any, ...]:
    """A value as a flat tuple of floats and texts; decimals inside a text are floats too."""
    if hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(item for entry in value for item in (numbers(entry) or ("()",)))
    if isinstance(value, (bool, int, float)):
        return (float(value),)
    return _words(re.sub(r"0x[0-9a-f]+", "0x", OBJECT.sub(r"<\1>", str(value))))


def _words(text: str) -> tuple[Any, ...]:
    if raised := EXCEPTION.fullmatch(text):
        return (raised[1],)
    parts = DECIMAL.split(text)
    return tuple(float(part) if i % 2 else part for i, part in enumerate(parts) if part) or ("",)


def _mark(check: Check, project: Project) -> Mark | None:
    try:
        check.run(project.part_now(), inputs(check))
    except CheckFailed as failure:
        return Mark(failure.says, numbers(failure.found))
    return None
