"""The list of projects, one project's page, and the kill matrix, whose cells are held to a run of the checks."""

import json
import random
from pathlib import Path

import pytest

from underhood.base.rng import stream_seed
from underhood.cli import list as listing
from underhood.cli.main import main
from underhood.lab.check import Check, CheckFailed
from underhood.lab.patch import applied
from underhood.projects.registry import Project, find_project, syllabus

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["list", *words]) == code
    return capsys.readouterr().out


def test_every_project_has_its_line_and_its_marks(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    for project in syllabus():
        line = next(line for line in lines if line.split()[:2] == [str(project.number), project.slug])
        marks = line.split()[2]
        assert [stage for stage, mark in zip(listing.STAGES, marks, strict=True) if mark == listing.YES] == [s for s in listing.STAGES if s in project.stages]


@pytest.mark.parametrize("name", ["attention", "4"])
def test_a_page_names_files_that_exist_and_everything_declared(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page, project = printed(capsys, name), find_project("attention")
    for path in ("src/underhood/nn/attention.py", "src/underhood/projects/attention/breaks.py", "src/underhood/projects/attention/checks.py"):
        assert path in page
        assert (ROOT / path).is_file()
    assert all(check.name in page for check in project.checks())
    assert all(f"attention.{sabotage.name}" in page for sabotage in project.experiments())
    assert all(seam in page for seam in project.owns)


def test_the_page_as_json_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    plain, project = json.loads(printed(capsys, "scalar", "--json")), find_project("scalar")
    assert [c["name"] for c in plain["checks"]] == [c.name for c in project.checks()]
    assert {b["name"]: (b["kind"], b["silent"]) for b in plain["breaks"]} == {s.name: (s.kind, s.silent) for s in project.breaks()}


def test_the_matrix_says_what_the_checks_do(capsys: pytest.CaptureFixture[str]) -> None:
    (matrix,) = json.loads(printed(capsys, "scalar", "--kills", "--json"))
    project = find_project("scalar")
    sabotage = next(s for s in project.breaks() if s.name == "overwritten")
    with applied(sabotage.patches):
        failed = [c.name for c in project.checks() if _fails(c, project)]
    assert sorted(matrix["kills"]["overwritten"]) == sorted(failed)
    assert (matrix["unseen_breaks"], matrix["idle_checks"]) == ([], [])


def _fails(check: Check, project: Project) -> bool:
    try:
        check.run(project.part_now(), random.Random(stream_seed(0, f"check/{check.name}")))
    except CheckFailed:
        return True
    return False


def test_the_matrix_as_text_has_a_column_for_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "scalar", "--kills")
    project = find_project("scalar")
    row = next(line for line in text.splitlines() if line.split()[:1] == ["overwritten"])
    assert len(row.split()[1]) == len(project.checks())
    assert all(f"  {check.name}" in text for check in project.checks())


def test_a_hole_in_the_matrix_is_said_and_ends_with_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the checks that see it, a break is named as unseen."""
    project = find_project("scalar")
    one = tuple(c for c in project.checks() if c.name == "arithmetic")
    monkeypatch.setattr(Project, "checks", lambda self: one)
    assert "No check sees the break overwritten." in " ".join(printed(capsys, "scalar", "--kills", code=1).split())
