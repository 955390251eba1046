"""Wrong files made of the right one: a text replaced, the file executed, every check run on it."""

import types
from typing import NamedTuple

from underhood.lab.check import Part
from underhood.lab.kills import run_check
from underhood.projects.registry import find_project
from underhood.workbench.hollow import name_of_seam
from underhood.workbench.starter import solution


class Mutant(NamedTuple):
    """What stands in the right file, what instead of it in the wrong one, and the check that must fail."""

    name: str
    right: str
    wrong: str
    check: str


def failing(slug: str, mutant: Mutant) -> dict[str, str]:
    """Check → what it says, for those that do not hold of the wrong file."""
    project = find_project(slug)
    text = solution(project)
    assert text.count(mutant.right) == 1, f"{mutant.right!r} stands {text.count(mutant.right)} times in the right file"
    part = part_of(slug, text.replace(mutant.right, mutant.wrong))
    failures = {check.name: run_check(check, part) for check in project.checks()}
    return {name: str(failure) for name, failure in failures.items() if failure is not None}


def part_of(slug: str, text: str) -> Part:
    """The seams of a file, executed here."""
    module = types.ModuleType("a_learners_file")
    exec(compile(text, f"{slug}.py", "exec"), module.__dict__)
    return Part(**{name_of_seam(seam): getattr(module, name_of_seam(seam)) for seam in find_project(slug).seams})
