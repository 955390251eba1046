"""The rule that keeps the project honest, for every project: the reference passes every check, every break of code is caught, and every
experiment's prediction has a verdict on record. What a project must have follows from its `stages` in syllabus.toml."""

import ast
import functools
from pathlib import Path

import pytest

from underhood.base.files import read_json
from underhood.cli.run import MEASURES
from underhood.lab import baseline as baselines
from underhood.lab import identity, record
from underhood.lab.check import Check, CheckFailed, Part
from underhood.lab.compare import REFUTED
from underhood.lab.kills import KillMatrix, kill_matrix, run_check
from underhood.lab.patch import Edit, Set, applied, configure, diff, source
from underhood.lab.sabotage import Crashes, Sabotage
from underhood.projects.registry import Project, find_break, find_project, syllabus
from underhood.workbench import chapter as chapters
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution, starter

RECORDS = Path(__file__).parents[2] / "records"
STAGES = {"layer", "checks", "breaks", "records", "starter", "chapter"}
MOST_LINES = 150  # of code, a project: more belongs into its extension
PUBLISHED = ["preflight", "scalar", "tensor", "bpe", "attention", "gpt", "loop"]


def at_stage(stage: str) -> list[Project]:
    return [p for p in syllabus() if stage in p.stages]


def experiments(stage: str) -> list[tuple[str, Project, Sabotage]]:
    return [(f"{p.slug}.{s.name}", p, s) for p in at_stage(stage) for s in p.experiments()]


@functools.cache
def matrix(slug: str) -> KillMatrix:
    project = find_project(slug)
    return kill_matrix(slug, project.checks(), project.breaks(), project.part_now)


def test_the_projects_are_numbered_in_order_and_know_their_stages() -> None:
    numbers = [p.number for p in syllabus()]
    assert numbers == sorted(set(numbers)), "in the syllabus' order; some are still to come"
    assert [p.slug for p in syllabus()][: len(PUBLISHED)] == PUBLISHED
    for project in syllabus():
        assert set(project.stages) <= STAGES
        assert {"layer", "checks", "breaks", "records"} <= set(project.stages)


@pytest.mark.parametrize("project", at_stage("checks"), ids=lambda p: p.slug)
def test_the_reference_passes_every_check(project: Project) -> None:
    for check in project.checks():
        assert run_check(check, project.part_now()) is None, check.name


@pytest.mark.parametrize("project", at_stage("breaks"), ids=lambda p: p.slug)
def test_every_break_of_code_is_caught_and_every_check_catches_one(project: Project) -> None:
    found = matrix(project.slug)
    assert found.empty_rows == []
    assert found.empty_columns == []


@pytest.mark.parametrize("project", at_stage("breaks"), ids=lambda p: p.slug)
def test_a_project_breaks_in_enough_ways(project: Project) -> None:
    breaks = project.breaks()
    assert len({b.name for b in project.experiments()}) == len(project.experiments())
    assert len(breaks) >= 3
    assert sum(b.kind == "part" for b in breaks) >= 2
    assert any(b.silent for b in breaks)


@pytest.mark.parametrize(("name", "project", "sabotage"), experiments("breaks"), ids=lambda x: x if isinstance(x, str) else "")
def test_a_declaration_is_sound(name: str, project: Project, sabotage: Sabotage) -> None:
    """Its patch applies, changes something, and its predictions are about figures that its baseline reports."""
    baseline = baselines.get(sabotage.baseline)
    with applied(sabotage.patches):
        if any(isinstance(p, Set) for p in sabotage.patches):
            assert configure(baseline.config, sabotage.patches) != baseline.config
    for patch in sabotage.patches:
        if isinstance(patch, Edit):
            assert "\n-" in diff(patch)
    for prediction in sabotage.expect:
        assert isinstance(prediction, Crashes) or prediction.metric in baseline.metrics
    assert find_break(name) == (project, sabotage)


@pytest.mark.parametrize(("name", "project", "sabotage"), experiments("records"), ids=lambda x: x if isinstance(x, str) else "")
def test_every_experiment_is_on_record_with_verdicts(name: str, project: Project, sabotage: Sabotage) -> None:
    standing = record.standing(name, sabotage, RECORDS)
    assert standing.state in ("fresh", "moved"), f"{standing.state}: {standing.why}; measure again with: underhood break {name} --record"
    stored = read_json(record.path_of(RECORDS, name))
    assert len(stored["seeds"]) >= 5
    verdicts = [j["verdict"] for j in stored["judgements"]]
    assert len(verdicts) == len(sabotage.expect)
    assert set(verdicts) <= {"held", "inconclusive", *REFUTED}
    if sabotage.kind == "setup" and sabotage.probe is not None:
        assert stored["probe"]["separates"] is True, "a break by setup must be told from healthy by its probe on every recorded seed"
    if sabotage.claim is not None:
        assert stored["claim"]["verdict"] in ("held", "refuted", "inconclusive", "not tested here")


@pytest.mark.parametrize(("name", "project", "sabotage"), experiments("records"), ids=lambda x: x if isinstance(x, str) else "")
def test_predictions_were_committed_before_they_were_measured(name: str, project: Project, sabotage: Sabotage) -> None:
    assert record.registered(RECORDS)[name]["prediction"] == read_json(record.path_of(RECORDS, name))["prediction"]
    assert record.registered_before(name, RECORDS) is not False


@pytest.mark.parametrize("project", at_stage("layer"), ids=lambda p: p.slug)
def test_the_syllabus_says_how_many_lines_a_learner_writes(project: Project) -> None:
    def code(seam: str) -> int:
        bare = identity._Bare().visit(ast.parse(source(seam)))
        return sum(line.strip() not in ("", "pass") for line in ast.unparse(bare).splitlines())

    assert project.lines == sum(code(seam) for seam in project.owns)
    assert project.lines <= MOST_LINES


@pytest.mark.parametrize("project", [p for p in at_stage("checks") if p.extension], ids=lambda p: p.slug)
def test_the_core_is_checked_without_the_extension_and_first(project: Project) -> None:
    """The checks that pass on the core alone come before all that need a seam of the extension."""
    core = Part(**{name: seam for name, seam in vars(project.part_now()).items() if any(o.rpartition(":")[2] == name for o in project.owns)})
    needs_extension = [not _passes(check, core) for check in project.checks()]
    assert needs_extension == sorted(needs_extension)
    assert set(needs_extension) == {False, True}


def _passes(check: Check, part: Part) -> bool:
    """Whether ``check`` holds; false too when a seam that it asks for is not there."""
    try:
        return run_check(check, part) is None
    except AttributeError:
        return False


@pytest.mark.parametrize("project", at_stage("starter"), ids=lambda p: p.slug)
def test_the_starter_fails_every_check_cleanly(project: Project, tmp_path: Path) -> None:
    """Each check says that something is not written yet, and nothing of ours is seen to break."""
    report = check_file(project, _file(tmp_path, starter(project)), everything=True)
    assert [(o.check.name, o.state) for o in report.outcomes] == [(c.name, "not written") for c in project.checks()]
    assert (report.held, report.changed, report.matches) == (0, (), ())
    for outcome in report.outcomes:
        assert "NotWritten: " in str(outcome.found) or outcome.found is None
        assert "Traceback" not in outcome.printed


@pytest.mark.parametrize("project", [pytest.param(p, id=p.slug, marks=[pytest.mark.slow] * (p.slug == "speculative")) for p in at_stage("starter")])
def test_the_solution_passes_in_a_process_of_its_own(project: Project, tmp_path: Path) -> None:
    report = check_file(project, _file(tmp_path, solution(project)))
    assert report.good, report.next
    assert report.again is not None


def _file(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("project", at_stage("chapter"), ids=lambda p: p.slug)
def test_a_chapter_has_its_form_and_every_name_in_it_resolves(project: Project) -> None:
    assert chapters.problems(chapters.load_chapter(project.slug)) == []


@pytest.mark.parametrize("project", at_stage("chapter"), ids=lambda p: p.slug)
def test_the_code_of_a_chapter_runs_and_prints_what_stands_there(project: Project) -> None:
    assert chapters.run_code(chapters.load_chapter(project.slug).expanded("terminal"), project.slug) > 0


def test_no_record_without_its_break() -> None:
    known = {name for name, _, _ in experiments("records")}
    stored = {f"{p.parent.name}.{p.stem}" for p in RECORDS.glob("*/*.json") if p.parent.name != MEASURES}
    assert stored <= known


def test_a_check_that_cannot_fail_would_be_seen() -> None:
    """Negative control of the kill matrix: without its checks a break escapes, and a check that always holds catches nothing."""
    project = find_project("scalar")
    assert kill_matrix("scalar", [], project.breaks(), project.part_now).empty_rows
    lazy = type(project.checks()[0])("lazy", "none", ("", "", ""), lambda part, rng: None)
    assert kill_matrix("scalar", [*project.checks(), lazy], project.breaks(), project.part_now).empty_columns == ["lazy"]


def test_an_unrelated_exception_is_no_kill() -> None:
    def crash(part: object, rng: object) -> None:
        raise ImportError("no such thing")

    check = type(find_project("scalar").checks()[0])("crash", "none", ("", "", ""), crash)
    with pytest.raises(ImportError):
        run_check(check, find_project("scalar").part_now())
    assert not issubclass(ImportError, CheckFailed)
