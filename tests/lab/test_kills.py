"""The kill matrix on a part of two lines."""

import random

import pytest

from underhood.base.names import load
from underhood.lab.baseline import Baseline
from underhood.lab.check import Check, Part, check, equal, runs
from underhood.lab.kills import kill_matrix, run_check
from underhood.lab.patch import Edit, Set
from underhood.lab.sabotage import Above, Rises, Sabotage

SEAM = "arms_of_tests:lifted"


@check("Adding", hints=("", "", ""))
def check_adds(part: Part, rng: random.Random) -> None:
    equal(runs(lambda: part.lifted(2, 3), "adds"), 5, "2 + 3 is 5")


@check("Adding nothing", hints=("", "", ""))
def check_zero(part: Part, rng: random.Random) -> None:
    equal(part.lifted(4, 0), 4, "4 + 0 is 4")


def declared(name: str, new: str) -> Sabotage:
    return Sabotage(name=name, says="", kind="part", patch=Edit(SEAM, "x + lift", new), baseline="arms_of_tests:TINY", expect=(Rises("loss", by=1),), look="")


def part_now() -> Part:
    return Part(lifted=load(SEAM))


BREAKS = (declared("minus", "x - lift"), declared("constant", "x + 1"), declared("raises", "x + lift + None"))


def test_rows_are_breaks_of_code_and_entries_the_messages(tiny: Baseline) -> None:
    setup = Sabotage(
        name="set", says="", kind="setup", patch=Set("lift", 1.0), baseline=tiny.name, expect=(Rises("loss", by=1),), probe=Above("loss", 1), look=""
    )
    found = kill_matrix("p", (check_adds,), (*BREAKS, setup), part_now)
    assert set(found.kills) == {"minus", "constant", "raises"}
    assert found.kills["minus"]["adds"].startswith("2 + 3 is 5")
    assert "TypeError" in found.kills["raises"]["adds"]
    assert (found.empty_rows, found.empty_columns) == ([], [])
    assert run_check(check_adds, part_now()) is None  # healthy again


def test_what_nobody_sees_and_who_sees_nothing_is_named(tiny: Baseline) -> None:
    lazy = Check("lazy", "none", ("", "", ""), lambda part, rng: None)
    found = kill_matrix("p", (check_zero, lazy), BREAKS[:2], part_now)
    assert found.empty_rows == ["minus"]
    assert found.empty_columns == ["lazy"]


def test_another_exception_is_no_kill(tiny: Baseline) -> None:
    with pytest.raises(TypeError):
        kill_matrix("p", (check_zero,), BREAKS[2:], part_now)


def test_a_check_draws_the_same_numbers_each_time(tiny: Baseline) -> None:
    seen: list[float] = []
    draws = Check("draws", "", ("", "", ""), lambda part, rng: seen.append(rng.random()))
    run_check(draws, part_now())
    run_check(draws, part_now())
    assert seen[0] == seen[1]
