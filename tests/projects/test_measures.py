"""Every project measures what its layer costs, and has put on record what was measured."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

from underhood.base.files import read_json
from underhood.cli.run import MEASURES
from underhood.projects.registry import Project, syllabus

RECORDS = Path(__file__).parents[2] / "records" / MEASURES
SHORTER: dict[str, dict[str, Any]] = {"tensor": {"steps": 5}, "gpt": {"steps": 2, "sentences": 1}, "loop": {"target": 9.0}}
PROJECTS = [p for p in syllabus() if "records" in p.stages]
LONG = ("flash", "kv_cache", "long_context", "speculative")  # over five seconds


def paths(figures: dict[str, Any]) -> list[str]:
    """The names of all figures, those of groups with a dot. A figure is a number, or a word such as a version. Deeper nesting is an error."""
    groups = {name: value if isinstance(value, dict) else {"": value} for name, value in figures.items()}
    for group in groups.values():
        assert all(value is None or isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value)) for value in group.values())
    return [f"{name}.{key}".rstrip(".") for name, group in groups.items() for key in group]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda p: p.slug)
def test_a_record_says_where_it_was_measured(project: Project) -> None:
    stored = read_json(RECORDS / f"{project.slug}.json")
    assert set(stored) == {"project", "date", "seconds", "machine", "versions", "measure"}
    assert stored["project"] == project.slug
    assert {"processor", "threads"} <= set(stored["machine"])
    assert {"python", "torch", "numpy"} <= set(stored["versions"])


@pytest.mark.parametrize("project", [pytest.param(p, id=p.slug, marks=[pytest.mark.slow] * (p.slug in LONG)) for p in PROJECTS])
def test_what_is_measured_is_on_record(project: Project) -> None:
    stored = read_json(RECORDS / f"{project.slug}.json")
    measure = importlib.import_module(f"underhood.projects.{project.slug}.measure").measure
    now = measure(**SHORTER.get(project.slug, {}))
    assert paths(stored["measure"]) == paths(now), f"measure again: underhood run {project.slug} --measure-only --record"


def test_the_time_that_is_announced_is_about_that_on_record() -> None:
    for project in PROJECTS:
        announced, taken = project.measure_seconds(), read_json(RECORDS / f"{project.slug}.json")["seconds"]
        assert announced is not None
        assert announced / 3 <= taken <= announced * 3, project.slug


def test_no_measurement_without_its_project() -> None:
    assert {p.stem for p in RECORDS.glob("*.json")} == {p.slug for p in PROJECTS}
