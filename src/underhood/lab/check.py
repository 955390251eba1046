"""What checks are made of: a check is ``def check_name(part, rng) -> None`` that raises ``CheckFailed`` in the words of the chapter.

``part`` is a namespace with a project's seams (healthy, under a patch, or a learner's), ``rng`` a ``random.Random``.
Checks build objects through ``part`` alone; what they compare with is torch, a closed form or stored values, never our healthy code.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

Part = SimpleNamespace


class CheckFailed(AssertionError):
    """A property does not hold: what was given, what was expected, what was found, and what that means."""

    def __init__(self, says: str, *, given: Any = None, expected: Any = None, found: Any = None) -> None:
        self.says, self.given, self.expected, self.found = says, given, expected, found
        rows = [f"{name}: {_short(value)}" for name, value in (("given", given), ("expected", expected), ("found", found)) if value is not None]
        super().__init__("\n  ".join([says, *rows]))


@dataclasses.dataclass(frozen=True)
class Check:
    """One property of a part: the step of the build that it belongs to, and three hints from nudge to near-answer."""

    name: str
    step: str
    hints: tuple[str, str, str]
    run: Callable[[Part, random.Random], None]


def check(step: str, *, hints: tuple[str, str, str]) -> Callable[[Callable[[Part, random.Random], None]], Check]:
    """Declare a check: ``@check("The causal mask", hints=("nudge", "more", "nearly the answer"))`` on ``def check_name(part, rng)``."""

    def declare(run: Callable[[Part, random.Random], None]) -> Check:
        return Check(run.__name__.removeprefix("check_"), step, hints, run)

    return declare


def holds(condition: bool, says: str, *, given: Any = None, expected: Any = None, found: Any = None) -> None:
    """Fail unless ``condition``."""
    if not condition:
        raise CheckFailed(says, given=given, expected=expected, found=found)


def equal(found: Any, expected: Any, says: str, *, given: Any = None) -> None:
    """Fail unless the two plain values are equal."""
    holds(found == expected, says, given=given, expected=expected, found=found)


def close(found: Any, expected: Any, says: str, *, given: Any = None, atol: float = 1e-6, rtol: float = 1e-6) -> None:
    """Fail unless the numbers agree, |found − expected| ≤ atol + rtol·|expected|: floats, nested lists, or anything with ``tolist`` (arrays, tensors)."""
    left, right = list(_numbers(found)), list(_numbers(expected))
    holds(
        len(left) == len(right) and _shape(found) == _shape(expected), says, given=given, expected=f"shape {_shape(expected)}", found=f"shape {_shape(found)}"
    )
    for a, b in zip(left, right, strict=True):
        near = (math.isnan(a) and math.isnan(b)) or a == b or (math.isfinite(b) and abs(a - b) <= atol + rtol * abs(b))
        holds(near, says, given=given, expected=expected, found=found)


def runs(call: Callable[[], Any], says: str, *, given: Any = None) -> Any:
    """The result of ``call()``; an exception in it is a failed check, not a crash."""
    try:
        return call()
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(says, given=given, expected="a result", found=f"{type(error).__name__}: {error}") from error


def refuses(call: Callable[[], Any], error: type[Exception] | tuple[type[Exception], ...], says: str, *, given: Any = None) -> None:
    """Fail unless ``call()`` raises ``error``."""
    names = " or ".join(e.__name__ for e in (error if isinstance(error, tuple) else (error,)))
    try:
        result = call()
    except error:
        return
    except Exception as other:
        raise CheckFailed(says, given=given, expected=names, found=f"{type(other).__name__}: {other}") from other
    raise CheckFailed(says, given=given, expected=names, found=f"the result {_short(result)}")


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach()
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any) -> Iterator[float]:
    value = _plain(value)
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    else:
        yield float(value)


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "shape"):
        return tuple(value.shape)
    return (len(value), *_shape(value[0])) if isinstance(value, (list, tuple)) and value else (0,) if isinstance(value, (list, tuple)) else ()


def _short(value: Any, limit: int = 600) -> str:
    text = value if isinstance(value, str) else str(_plain(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
