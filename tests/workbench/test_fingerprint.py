"""Known breaks are told apart, and recognised in a learner's file."""

import itertools
import textwrap
from pathlib import Path

import pytest

from underhood.lab.patch import Edit
from underhood.lab.sabotage import Sabotage
from underhood.projects.registry import Project, find_project, syllabus
from underhood.workbench import fingerprint
from underhood.workbench.checking import check_file
from underhood.workbench.fingerprint import Mark, agree, matches, numbers
from underhood.workbench.mine import recognise
from underhood.workbench.starter import solution

READY = [p for p in syllabus() if "starter" in p.stages]


def sabotaged(project: Project, sabotage: Sabotage) -> str | None:
    """The solution with the break's edits made by hand, where each text occurs once in it."""
    text = solution(project)
    for patch in sabotage.patches:
        if not isinstance(patch, Edit):
            return None
        deep = max((n for n in (0, 4, 8) if text.count(textwrap.indent(patch.old, " " * n)) == 1), default=None)
        if deep is None or text.count(patch.old.splitlines()[0]) != 1:
            return None
        text = text.replace(textwrap.indent(patch.old, " " * deep), textwrap.indent(patch.new, " " * deep))
    return text if text != solution(project) else None


def by_hand(project: Project) -> list[tuple[Sabotage, str]]:
    found = [(b, text) for b in project.breaks() if b.kind == "part" and (text := sabotaged(project, b)) is not None]
    return list({b.patches: (b, text) for b, text in reversed(found)}.values())[::-1]


@pytest.mark.parametrize("project", READY, ids=lambda p: p.slug)
def test_healthy_and_all_breaks_differ_or_are_one(project: Project) -> None:
    marks = fingerprint.of_breaks(project.slug)
    for name, mark in marks.items():
        assert any(m is not None for m in mark.values()), f"{name} behaves like the healthy part"
    for a, b in itertools.combinations(marks, 2):
        same = agree(marks[a], marks[b])
        assert not same or project.find(a).patches == project.find(b).patches, f"{a} and {b} cannot be told apart"


@pytest.mark.parametrize("project", READY, ids=lambda p: p.slug)
def test_there_are_breaks_to_make_by_hand(project: Project) -> None:
    assert len(by_hand(project)) >= 3


def _recognised(project: Project, sabotage: Sabotage, text: str, folder: Path) -> None:
    file = folder / f"{project.slug}.py"
    file.write_text(text, encoding="utf-8")
    found = recognise(project, sabotage, file)
    assert found.as_declared, f"{sabotage.name}: {found.says}"
    report = check_file(project, file)
    assert project.find(sabotage.name).patches in [project.find(name).patches for name in report.matches]


@pytest.mark.parametrize("slug", ["bpe", "attention"])
def test_a_break_made_by_hand_is_recognised(slug: str, tmp_path: Path) -> None:
    project = find_project(slug)
    _recognised(project, *by_hand(project)[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("project", READY, ids=lambda p: p.slug)
def test_breaks_made_by_hand_are_recognised_and_none_for_another(project: Project, tmp_path: Path) -> None:
    """Most are; where a check's figure depends on the process (dropout's draws, identity of tensors) a break may stay unknown, but never gets a wrong name."""
    recognised = []
    for sabotage, text in by_hand(project):
        file = tmp_path / f"{project.slug}.py"
        file.write_text(text, encoding="utf-8")
        report = check_file(project, file, everything=True)
        assert not report.good, sabotage.name
        named = {project.find(name).patches for name in report.matches}
        assert named <= {sabotage.patches}, f"{sabotage.name} is taken for {report.matches}"
        recognised += [sabotage.name] if named else []
    assert len(recognised) >= 3


def test_what_is_healthy_or_unknown_matches_nothing(tmp_path: Path) -> None:
    assert matches({"words": None}, "bpe") == []
    assert matches({"words": Mark("never said", ())}, "bpe") == []
    file = tmp_path / "bpe.py"
    file.write_text(solution(find_project("bpe")) + "\n\ndef merge(word, pair, new):\n    return (7,)\n", encoding="utf-8")
    assert check_file(find_project("bpe"), file).matches == ()


def test_values_are_compared_number_by_number() -> None:
    nan = float("nan")
    assert numbers([1, (2.0, {"a": nan})])[:2] == (1.0, 2.0)
    assert numbers([]) == ()
    assert numbers([[], [1]]) == ("()", 1.0)
    assert agree({"a": Mark("x", (nan, 1.0))}, {"a": Mark("x", (nan, 1.0 + 1e-7))})
    assert not agree({"a": Mark("x", (nan,))}, {"a": Mark("x", (0.0,))})
    assert not agree({"a": Mark("x", (1.0,))}, {"a": Mark("x", (1.0, 1.0))})
    assert not agree({"a": None}, {"a": Mark("x", ())})
    assert not agree({"a": Mark("x", ())}, {"a": Mark("y", ())})
    assert numbers("<f at 0x7fa1>") == numbers("<f at 0x7fb2>")
