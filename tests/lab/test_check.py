"""The words checks are made of."""

import math
import random
from typing import Any

import pytest
import torch

from underhood.lab.check import Check, CheckFailed, Part, check, close, equal, holds, refuses, runs


def test_a_failed_check_says_what_was_given_expected_and_found() -> None:
    with pytest.raises(CheckFailed) as caught:
        equal(5, 6, "two and four make six", given=(2, 4))
    assert str(caught.value) == "two and four make six\n  given: (2, 4)\n  expected: 6\n  found: 5"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (1.0, 1.0 + 1e-7),
        ([1, [2, 3]], [1, [2, 3]]),
        (torch.ones(2, 2), [[1, 1], [1, 1]]),
        (math.nan, math.nan),
        (math.inf, math.inf),
        (torch.ones(1, requires_grad=True), [1.0]),
    ],
)
def test_close_holds(found: Any, expected: Any) -> None:
    close(found, expected, "")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (1.0, 1.001),
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, -math.inf),
        (1.0, math.inf),
        ([1, 2], [1, 2, 3]),
        (torch.ones(2, 1), torch.ones(1, 2)),
        (torch.ones(2), [[1.0, 1.0]]),
    ],
)
def test_close_fails(found: Any, expected: Any) -> None:
    with pytest.raises(CheckFailed):
        close(found, expected, "")


def test_an_exception_in_the_part_is_a_failed_check() -> None:
    assert runs(lambda: 3, "") == 3
    with pytest.raises(CheckFailed, match="ZeroDivisionError"):
        runs(lambda: 1 / 0, "divides")
    with pytest.raises(CheckFailed, match="inner"):
        runs(lambda: holds(False, "inner"), "outer")


def test_a_refusal_is_of_the_right_kind() -> None:
    refuses(lambda: 1 / 0, ZeroDivisionError, "")
    refuses(lambda: 1 / 0, (ValueError, ZeroDivisionError), "")
    with pytest.raises(CheckFailed, match="ZeroDivisionError"):
        refuses(lambda: 1 / 0, ValueError, "")
    with pytest.raises(CheckFailed, match="the result 3"):
        refuses(lambda: 3, ValueError, "")


def test_a_declaration_takes_its_name_from_the_function() -> None:
    @check("The step", hints=("a", "b", "c"))
    def check_something(part: Part, rng: random.Random) -> None:
        holds(rng.random() < 2, "")

    assert isinstance(check_something, Check)
    assert (check_something.name, check_something.step, check_something.hints) == ("something", "The step", ("a", "b", "c"))


def test_long_values_are_cut() -> None:
    assert len(str(CheckFailed("", found=list(range(10_000))))) < 700
