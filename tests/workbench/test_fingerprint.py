"""Known breaks are told apart, and recognised in a learner's file."""

import itertools
import random
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from underhood.base.rng import stream_seed
from underhood.lab.check import Check, Part, check, close
from underhood.lab.patch import Edit
from underhood.lab.sabotage import Sabotage
from underhood.projects.registry import Project, find_project, syllabus
from underhood.workbench import fingerprint
from underhood.workbench.checking import check_file
from underhood.workbench.fingerprint import Mark, agree, matches, numbers
from underhood.workbench.judge import Player, run_one
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


LONG = ("kv_cache", "speculative", "flash", "attention")  # texts of a thousand tokens, a hundred thousand draws, many shapes


def by_hand(project: Project) -> list[tuple[Sabotage, str]]:
    found = [(b, text) for b in project.breaks() if b.kind == "part" and (text := sabotaged(project, b)) is not None]
    return list({b.patches: (b, text) for b, text in reversed(found)}.values())[::-1]


@pytest.mark.parametrize("project", [pytest.param(p, id=p.slug, marks=[pytest.mark.slow] * (p.slug in LONG)) for p in READY])
def test_healthy_and_all_breaks_differ_or_are_one(project: Project) -> None:
    marks = {b.name: fingerprint.of_break(project.slug, b.name) for b in project.breaks() if b.kind == "part"}
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
@pytest.mark.parametrize("name", ["head_cut_off", "ignored_targets_count", "dropout_at_evaluation"])
def test_what_was_once_another_in_each_process_is_recognised(name: str, tmp_path: Path) -> None:
    """A matrix without its gradient, a model of torch's own layers, and dropout."""
    project = find_project("gpt")
    _recognised(project, *next((b, text) for b, text in by_hand(project) if b.name == name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("project", READY, ids=lambda p: p.slug)
def test_every_break_made_by_hand_is_recognised_and_none_for_another(project: Project, tmp_path: Path) -> None:
    for sabotage, text in by_hand(project):
        file = tmp_path / f"{project.slug}.py"
        file.write_text(text, encoding="utf-8")
        report = check_file(project, file, everything=True)
        assert not report.good, sabotage.name
        assert {project.find(name).patches for name in report.matches} == {sabotage.patches}, f"{sabotage.name} is taken for {report.matches}"


@pytest.mark.parametrize("slug", ["bpe", "loop", "block", *(pytest.param(slug, marks=pytest.mark.slow) for slug in ("attention", "gpt"))])
def test_no_check_draws_from_torchs_own_generator(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one fault would give other figures in every process."""
    monkeypatch.setattr(fingerprint, "inputs", lambda check: random.Random(stream_seed(0, f"check/{check.name}")))

    def marks(seed: int) -> Mapping[str, fingerprint.Fingerprint]:
        torch.manual_seed(seed)
        fingerprint.mark_of_break.cache_clear()
        return {b.name: fingerprint.of_break(slug, b.name) for b in find_project(slug).breaks() if b.kind == "part"}

    first, second = marks(1), marks(2)
    for name in first:
        assert agree(first[name], second[name]), name


@check("1 · Draws", hints=("", "", ""))
def check_draws(part: Part, rng: random.Random) -> None:
    """Fails with what torch's own generator gives on both sides."""
    close([float(part.keep_top_k(None, 1)), float(torch.rand(()))], [0.0, 0.0], "no such numbers", given=rng.random())


def test_a_learners_draws_are_the_same_in_every_process(tmp_path: Path) -> None:
    """torch's own generator starts anew for each check, at both ends."""
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\n\ndef keep_top_k(logits, k):\n    return torch.rand(())\n", encoding="utf-8")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with Player(find_project("gpt"), file) as player:
            found += [run_one(player, one).found for one in (check_draws, _another(check_draws), check_draws)]
    assert found[0] == found[2] == found[3] == found[5]
    assert found[1] == found[4] != found[0]
    assert found[0][0] != found[0][1], "what the learner drew is drawn"


def _another(one: Check) -> Check:
    return Check("another", one.step, one.hints, one.run)


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
    assert numbers("the result <a.b.BPE object at 0x7fa1>") == numbers("the result <c.BPE object at 0x7fb2>") != numbers("the result <c.D object at 0x1>")
    assert numbers("the result [0.5, -2.e-3]") == ("the result [", 0.5, ", ", -0.002, "]")
    assert agree({"a": Mark("x", numbers("the result 0.30000000000000004"))}, {"a": Mark("x", numbers("the result 0.3"))})
    assert not agree({"a": Mark("x", numbers("the result 0.31"))}, {"a": Mark("x", numbers("the result 0.3"))})


def test_of_an_exception_the_type_counts_and_not_the_words() -> None:
    assert numbers("ShapeError: query 0 sees nothing") == numbers("ShapeError: no key for you") == ("ShapeError",)
    assert numbers("ShapeError: 1") != numbers("TypeError: 1")
    assert numbers("Note: 1") == ("Note: 1",)
