"""The blank file: made from the healthy source, with what it asks for and nothing of the answer."""

import ast
import re
from pathlib import Path

import pytest

from underhood.base import errors
from underhood.base.errors import DataError
from underhood.cli.main import main
from underhood.projects.registry import Project, find_project, syllabus
from underhood.workbench import course, steps
from underhood.workbench import starter as blanks
from underhood.workbench.checking import check_file
from underhood.workbench.hollow import name_of_seam
from underhood.workbench.starter import changed_since, contract, home, solution, starter, stub, stub_of

READY = [p for p in syllabus() if "starter" in p.stages]
projects = pytest.mark.parametrize("project", READY, ids=lambda p: p.slug)


def bodies(text: str) -> dict[str, list[ast.stmt]]:
    """Function, or ``"Class.method"`` → its statements without the docstring."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for item in [node] if isinstance(node, ast.FunctionDef) else node.body:
                if isinstance(item, ast.FunctionDef):
                    name = item.name if item is node else f"{node.name}.{item.name}"
                    found[name] = item.body[1:] if ast.get_docstring(item) is not None else item.body
    return found


def blank(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotWritten" in ast.unparse(body[0])


@projects
def test_it_holds_every_seam_and_no_body(project: Project) -> None:
    text = starter(project)
    defined = {n.name for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    assert defined == {name_of_seam(seam) for seam in project.seams}
    assert all(map(blank, bodies(text).values()))
    assert "How:" not in text
    assert all(len(line) <= 160 for line in text.splitlines())


@projects
def test_every_import_works_and_is_ours_to_give(project: Project) -> None:
    own = {name_of_seam(seam) for seam in project.seams}
    for text in (starter(project), solution(project)):
        for node in ast.parse(text).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(compile(ast.Module([node], []), "starter", "exec"), {})
                assert not own & {alias.asname or alias.name for alias in node.names}


@projects
def test_the_errors_that_its_words_and_the_answer_name_are_there(project: Project) -> None:
    space: dict[str, object] = {}
    imports = [n for n in ast.parse(starter(project)).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(list(imports), []), "starter", "exec"), space)
    words = set(re.findall(r"``(\w+)``", starter(project))) | {n.id for n in ast.walk(ast.parse(solution(project))) if isinstance(n, ast.Name)}
    assert {w for w in words if isinstance(getattr(errors, w, None), type)} - {"UnderhoodError"} <= space.keys()


def test_gpt_starts_with_the_error_that_its_third_step_raises() -> None:
    assert re.search(r"^from underhood\.base\.errors import .*\bDataError\b", starter(find_project("gpt")), re.MULTILINE)


@projects
def test_the_solution_is_the_healthy_text(project: Project) -> None:
    text = solution(project)
    assert "NotWritten" not in text
    for seam in project.seams:
        where = home(seam.partition(":")[0])
        assert where.segment(where.defined()[name_of_seam(seam)]) in text


@projects
def test_a_later_start_writes_what_the_steps_before_it_run(project: Project) -> None:
    last = len(steps.step_titles(project))
    before: set[str] = set()
    for step in range(1, last + 1):
        try:
            text = starter(project, from_step=step)
        except DataError:
            assert all(need.first < step for need in steps.needs(project.slug).values())
            continue
        written = {name for name, body in bodies(text).items() if not blank(body)}
        assert before <= written
        assert not written & {name for name, need in steps.needs(project.slug).items() if need.first >= step}
        before = written
    assert before
    for step in (0, last + 1):
        with pytest.raises(DataError, match=f"1 to {last}"):
            starter(project, from_step=step)


def test_a_start_that_would_be_the_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the steps before it use everything there is."""
    monkeypatch.setattr(blanks, "needed_before", lambda project, step: set(steps.needs("bpe")) | {"BPE.vocab_size"})
    with pytest.raises(DataError, match="nothing to write"):
        starter(find_project("bpe"), from_step=7)


@pytest.mark.parametrize("project", [p for p in READY if p.slug in ("tensor", "bpe", "attention", "gpt")], ids=lambda p: p.slug)
def test_exactly_the_steps_before_it_hold(project: Project, tmp_path: Path) -> None:
    middle = len(steps.step_titles(project)) // 2 + 1
    _holds_before(project, middle, tmp_path)


@pytest.mark.slow
@projects
def test_exactly_the_steps_before_each_hold(project: Project, tmp_path: Path) -> None:
    for step in range(2, len(steps.step_titles(project)) + 1):
        if any(need.first >= step for need in steps.needs(project.slug).values()):
            _holds_before(project, step, tmp_path)


def _holds_before(project: Project, step: int, folder: Path) -> None:
    """Steps before ``step`` hold; of the rest at least one is open, and nothing that only the rest runs is written (above)."""
    file = folder / f"{project.slug}.py"
    file.write_text(starter(project, from_step=step), encoding="utf-8")
    report = check_file(project, file)
    assert report.next_step is not None
    assert report.next_step.number >= step
    assert report.next is not None
    assert report.next.state == "not written"


def test_a_part_that_only_others_use_stands_where_it_is_needed_whole() -> None:
    """``encode`` calls ``split_special`` from step 5 on, but cuts nothing before step 7."""
    found = steps.steps_of_seams(find_project("bpe"))
    assert (found["count_words"], found["split_special"], found["BPE"]) == (2, 7, 4)
    assert steps.needs("bpe")["split_special"] == (5, 7)
    assert steps.steps_of_seams(find_project("attention"))["hide"] == 3


def test_a_class_is_given_method_by_method() -> None:
    text = starter(find_project("scalar"), from_step=3)
    found = bodies(text)
    assert not blank(found["Value.__mul__"])
    assert blank(found["Value.backward"]), "its step is the fifth"
    assert not blank(found["Value.__repr__"]), "what no check runs comes with its class"
    assert blank(found["Value.tanh"])
    assert blank(found["Neuron.__init__"])


def test_methods_of_several_steps_are_labelled_each() -> None:
    text = starter(find_project("bpe"))
    found = re.findall(r"^    # step (\d+) · .+\n(?:    @\w+\n)?    def (\w+)", text, re.MULTILINE)
    assert {(name, int(step)) for step, name in found} >= {("__init__", 4), ("train", 4), ("encode", 5), ("decode", 6), ("save", 7)}
    assert text.count("    # step ") == text.split("class BPE")[1].count("    def ")
    assert "    # step " not in starter(find_project("attention")), "one step, one banner"
    assert "# step" not in solution(find_project("bpe")).replace("# ── step", "")
    assert "# step" not in stub_of(find_project("bpe"), "BPE")


@projects
def test_start_prints_every_step(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    course.create(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["start", project.slug]) == 0
    told = capsys.readouterr().out
    for title in steps.step_titles(project):
        assert re.search(rf"^  {re.escape(title)} +\S", told, re.MULTILINE), title


def test_the_step_banners_are_in_order() -> None:
    for project in READY:
        shown = [int(n) for n in re.findall(r"^# ── step (\d+) ·", starter(project), re.MULTILINE)]
        assert shown == sorted(set(shown))


@projects
def test_a_changed_contract_is_noticed(project: Project) -> None:
    text = starter(project)
    assert changed_since(project, text) == []
    assert changed_since(project, "def f(): pass") == []
    name, hashed = next(iter(contract(project).items()))
    assert changed_since(project, text.replace(f"{name}={hashed}", f"{name}=00000000")) == [name]
    assert changed_since(project, text.replace(f"{name}={hashed}", "")) == [name]


def test_the_contract_is_signature_and_public_words(tmp_path: Path) -> None:
    source = 'def f(x: int) -> int:\n    """What.\n\n    How: by magic.\n    """\n    return x\n'

    def of(text: str) -> str:
        node = ast.parse(text).body[0]
        assert isinstance(node, ast.FunctionDef)
        return stub(home("underhood.scalar.value")._replace(text=text, tree=ast.parse(text)), node)

    assert of(source) == 'def f(x: int) -> int:\n    """What."""\n    raise NotWritten("f")'
    assert of(source.replace("return x", "return x + 1")) == of(source)
    assert of(source.replace("magic", "hand")) == of(source)
    assert of(source.replace("What.", "Why.")) != of(source)
    assert of(source.replace("x: int", "y: int")) != of(source)


def test_a_stub_of_one_part_is_what_check_shows() -> None:
    assert stub_of(find_project("attention"), "causal_mask").startswith("def causal_mask(T: int")
