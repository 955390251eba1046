"""What the workbench keeps of a learner: progress, hints, predictions, incidents, grades; and that it never loses what they wrote."""

import datetime
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from underhood.base.errors import DataError, UserError
from underhood.cli.check import DETAILED
from underhood.cli.main import main
from underhood.projects.registry import find_project
from underhood.workbench import course, grading, incident, mine, predict
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution, starter

DAY = datetime.date(2026, 11, 21)
BPE, PREFLIGHT = find_project("bpe"), find_project("preflight")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    course.create(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ── progress.toml ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_known_is_kept(folder: Path) -> None:
    text = 'name = "Ada"\nwhen = 2026-11-21T10:00:00\n[my-own]\nlist = [1, 2.5, "drei", true]\n"odd key" = "x"\n[my-own.deep."a b"]\nn = 1\n'
    (folder / course.PROGRESS).write_text(text, encoding="utf-8")
    before = course.read_state(folder)
    course.mark_done(folder, "scalar", DAY)
    after = course.read_state(folder)
    assert after == {**before, "projects": {"scalar": DAY}}
    assert after["my-own"] == {"list": [1, 2.5, "drei", True], "odd key": "x", "deep": {"a b": {"n": 1}}}


@pytest.mark.parametrize("text", ["checks = 3", "[predictions", "[projects]\nscalar = 1", "incidents = []"])
def test_a_damaged_file_is_named_by_every_verb(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / course.PROGRESS
    path.write_text(text, encoding="utf-8")
    assert main(["progress"]) == 2
    said = capsys.readouterr().err
    assert "progress.toml" in said
    assert "Traceback" not in said
    assert path.read_text(encoding="utf-8") == text


COUNT = """
import sys
from pathlib import Path
from underhood.workbench import course

def one_more(state):
    state["checks"]["n"] = state["checks"].get("n", 0) + 1

for _ in range(25):
    course.update(Path(sys.argv[1]), one_more)
"""


def test_commands_side_by_side_lose_nothing(folder: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", COUNT, str(folder)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert course.read_state(folder)["checks"]["n"] == 50


def test_the_lock_is_let_go_after_an_error(folder: Path) -> None:
    def fails(state: course.State) -> None:
        raise ValueError("not today")

    for _ in range(2):
        with pytest.raises(ValueError, match="not today"):
            course.update(folder, fails)
    assert course.update(folder, lambda state: state.update(mine={"a": 1}))
    assert course.read_state(folder)["mine"] == {"a": 1}


# ── start, check, hint, reset ─────────────────────────────────────────────────────────────────────────────────────────


def test_start_never_overwrites_and_reset_keeps_a_dated_copy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "bpe"]) == 0
    path = folder / "my" / "bpe.py"
    assert path.read_text(encoding="utf-8") == starter(BPE)
    path.write_text("# mine\n", encoding="utf-8")
    assert main(["start", "bpe"]) == 2
    assert "reset" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "# mine\n"
    assert main(["reset", "bpe"]) == 0
    assert path.read_text(encoding="utf-8") == starter(BPE)
    (kept,) = (p for p in path.parent.iterdir() if re.fullmatch(r"bpe-\d{4}-\d\d-\d\d-\d{6}\.py", p.name))
    assert kept.read_text(encoding="utf-8") == "# mine\n"


def test_hints_go_on_until_the_check_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "my" / "bpe.py"
    path.write_text(solution(BPE).replace("i += 2", "i += 1"), encoding="utf-8")

    def says(*command: str) -> str:
        main([*command])
        return " ".join(capsys.readouterr().out.split())

    checked = says("check", "bpe")
    assert "known break" in checked
    assert "second_half_kept" not in checked
    first, second, third, fourth = (says("hint", "bpe") for _ in range(4))
    merging = next(c for c in BPE.checks() if c.name == "merge")
    for hint, text in zip((first, second, third, fourth), (*merging.hints, merging.hints[2]), strict=True):
        assert " ".join(text.split()) in hint
    assert "second_half_kept" not in first
    assert "exactly like the break second_half_kept" in second
    assert "solution bpe" in third
    path.write_text(solution(BPE), encoding="utf-8")
    assert f"all {len(BPE.checks())} checks hold" in says("hint", "bpe")
    assert course.done(folder).keys() == {"bpe"}


def test_hints_begin_anew_when_the_failure_is_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "my" / "bpe.py"
    wrong, raises = solution(BPE).replace("i += 2", "i += 1"), solution(BPE).replace("i += 2", "i += 2 + nothing")

    def hint(text: str) -> str:
        path.write_text(text, encoding="utf-8")
        main(["hint", "bpe"])
        return capsys.readouterr().out

    given = [hint(text) for text in (wrong, wrong, "\n" + wrong, raises, wrong)]
    assert [int(re.search(r"hint (\d)", text)[1]) for text in given] == [1, 2, 3, 1, 1]  # type: ignore[index]


def test_a_file_that_cannot_run_is_said_by_hint_as_by_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my" / "bpe.py").write_text("x = 1\ndef split(:\n", encoding="utf-8")
    assert main(["check", "bpe"]) == 1
    told = capsys.readouterr()
    assert main(["hint", "bpe"]) == 1
    assert capsys.readouterr() == told
    assert told.out.startswith("bpe.py, line 2: the file cannot be run: SyntaxError")


def test_no_break_is_blamed_while_a_part_is_not_written(tmp_path: Path) -> None:
    text = solution(BPE).replace("i += 2", "i += 1")
    blank = 'def split(text, pattern="gpt2"):\n    from underhood.base.errors import NotWritten\n    raise NotWritten("split")\n'
    for file, matched in ((text, ("second_half_kept",)), (f"{text}\n\n{blank}", ())):
        (tmp_path / "bpe.py").write_text(file, encoding="utf-8")
        assert check_file(BPE, tmp_path / "bpe.py", everything=True).matches == matched


def test_what_is_not_written_is_named_first_and_all_tells_every_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "my" / "preflight.py"
    path.write_text(starter(PREFLIGHT), encoding="utf-8")
    assert main(["check", "preflight"]) == 1
    first = PREFLIGHT.checks()[0].name.replace("_", " ")
    assert f"\ndot is not written yet; «{first}» waits for it.\n" in capsys.readouterr().out
    path.write_text(solution(PREFLIGHT).replace("zip(a, b, strict=True)", "zip(a, b[1:])").replace("math.exp(", "abs("), encoding="utf-8")
    main(["check", "preflight"])
    short = capsys.readouterr().out
    main(["check", "preflight", "--all"])
    told = capsys.readouterr().out
    assert short.count("does not hold.") == 1
    assert told.count("does not hold.") == min(told.count("✗"), DETAILED) > 1
    path.write_text("", encoding="utf-8")
    main(["check", "preflight", "--all"])
    assert len(capsys.readouterr().out.split("Not written yet: ")) == 2


@pytest.mark.parametrize(
    ("wrong", "right", "told"),
    [
        ("return tuple(merged)", "return merged", ["learn_merges does not run", "unhashable", "at: bpe.py, line", "in words.items()}"]),
        ('"utf-8", errors="replace"', '"ascii"', ["encoding and decoding do not run", "'ascii' codec", "at: bpe.py, line"]),
        ("utf8(word), self.ranks", "word, self.ranks", ["encoding does not run", "at: bpe.py, line"]),
        ("    return merges\n", "    merges\n", ["learn_merges does not run", "'NoneType'", "is a return missing?"]),
        ("i += 2", "i += 1", ["given: (1, 2, 3, 1, 2)", "expected: [9, 3, 9]", "found: [9, 2, 3, 9, 2]"]),
    ],
)
def test_a_message_says_what_to_mend(wrong: str, right: str, told: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Typical slips: the input, what was expected and found, and the line of one's own file."""
    text = solution(BPE)
    assert text.count(wrong) == 1
    (folder / "my" / "bpe.py").write_text(text.replace(wrong, right), encoding="utf-8")
    assert main(["check", "bpe"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    for words in told:
        assert words in said


# ── predictions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def stored(mean: float, *, better: str = "lower", how: str = "done", width: float = 0.05, kind: str = "Worse", verdict: str = "held") -> dict[str, Any]:
    effect = {"mean": mean, "low": mean - width, "high": mean + width}
    return {
        "break": "p.b",
        "metrics": {"loss": {"says": "loss", "better": better, "smallest": 0.1, "floor": 1.0, "ceiling": 5.0}},
        "judgements": [{"prediction": {"kind": kind, "metric": "loss"}, "effect": None if kind != "Worse" else effect, "verdict": verdict}],
        "healthy": [{"how": "done", "figures": {"loss": 2.0}}],
        "broken": [{"how": how, "figures": {"loss": 2.0 + mean}}],
    }


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (stored(0.5), "worse"),
        (stored(1.5), "much worse"),
        (stored(-0.5), "better"),
        (stored(0.05), "same"),
        (stored(0.5, width=0.6), "same"),
        (stored(0.5, better="higher"), "better"),
        (stored(-0.5, better="higher"), "worse"),
        (stored(-3.0, better="higher"), "much worse"),
        (stored(0.5, how="crashed"), "crash"),
        (stored(0, kind="Keeps", verdict="held"), "same"),
        (stored(0, kind="Keeps", verdict="refuted"), "worse"),
        (stored(0, kind="Violates", verdict="held"), "worse"),
        (stored(0, kind="Violates", verdict="refuted"), "same"),
    ],
)
def test_the_measured_direction(record: dict[str, Any], found: str) -> None:
    assert predict.truth(predict.question(record), record) == found


def test_worse_and_much_worse_are_one_direction() -> None:
    assert predict.right(predict.Guess(direction="much worse"), "worse")
    assert not predict.right(predict.Guess(direction="better"), "worse")
    assert not predict.right(predict.Guess(), "worse")
    assert [predict.direction(t) for t in ("1", "cr", " Same ", "6", "", "x")] == ["much worse", "crash", "same", "", "", ""]


@pytest.mark.parametrize(
    ("number", "says"),
    [(0.5, "lies in"), (-0.5, "lies in"), (0.1, "is smaller than all of"), (3.0, "is larger than all of"), (None, "")],
)
def test_the_readers_own_prediction_is_judged(number: float | None, says: str) -> None:
    record = stored(0.5)
    asked = predict.question(record)
    told = predict.verdict(asked, predict.Guess(direction="better", number=number), "worse")
    assert told.startswith("Your direction, better, is wrong.")
    assert says in told
    assert ("0.45 to 0.55" in told) is (number is not None)
    assert predict.verdict(asked, predict.Guess(), "worse") == ""
    assert "holds or does not" in predict.verdict(predict.question(stored(0, kind="Keeps")), predict.Guess(number=1.0), "same")
    assert "0 to" in predict.verdict(predict.question(stored(0.02)), predict.Guess(number=0.01), "same")


# ── incidents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_of_an_incident() -> None:
    drawn = incident.draw([BPE], random.Random(1))
    assert drawn.sabotage.name in drawn.candidates
    assert drawn.points == 10
    probes = list(drawn.probes())
    for name in probes[:3]:
        drawn.probe(name)
    drawn.probe(probes[0])
    assert drawn.points == 10, "three probes are free, and one asked twice counts once"
    drawn.probe(probes[3])
    assert drawn.points == 9
    assert not drawn.name_it(next(c for c in drawn.candidates if c != drawn.sabotage.name))
    assert drawn.points == 5
    assert drawn.name_it(drawn.sabotage.name)
    for _ in range(3):
        drawn.name_it("none of them")
    assert drawn.points == 0
    assert drawn.sabotage.name not in " ".join(incident.telemetry(drawn))


def test_there_must_be_something_to_draw_from() -> None:
    with pytest.raises(UserError, match="no finished project"):
        incident.draw([], random.Random(0))


# ── a learner's tests ─────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = "def test_merge(part):\n    assert tuple(part.merge((1, 1, 1), (1, 1), 9)) == (9, 1)\n"


def graded(text: str, folder: Path) -> grading.Grade:
    path = folder / "test_mine.py"
    path.write_text(text, encoding="utf-8")
    return grading.grade(BPE, path)


def test_tests_are_graded_by_what_they_catch(tmp_path: Path) -> None:
    found = graded(GOOD + "\ndef test_wrong(part):\n    assert part.split('a b') == ['a', 'b']\n", tmp_path)
    assert found.count == 2
    assert list(found.reference) == ["test_wrong"]
    assert "test_merge" in found.caught["second_half_kept"]
    assert "test_merge" not in found.caught["ties_to_the_larger"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "holds no test; expected functions `def test_…"),
        ("import my\n", "No module named 'my'; expected .* where `part` has split, split_special, "),
        ("def test_(:\n", "SyntaxError"),
        ("import os\nos._exit(0)\n", "ended the process"),
        ("raise SystemExit\n", "SystemExit"),
    ],
)
def test_tests_that_cannot_be_graded(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        graded(text, tmp_path)


def test_tests_that_hang_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "SECONDS", 4)
    with pytest.raises(UserError, match="did not end within 4 s"):
        graded("def test_forever(part):\n    while True: pass\n", tmp_path)


def test_no_tests_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        grading.grade(BPE, tmp_path / "none.py")


# ── break --mine ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_copy_is_made_once_and_recognised_or_not(tmp_path: Path) -> None:
    file = tmp_path / "bpe.py"
    file.write_text(solution(BPE), encoding="utf-8")
    copy = mine.copy_of(file, "second_half_kept")
    path = copy.path
    assert (path, copy.new, copy.older) == (tmp_path / "broken" / "bpe.py", True, False)
    sabotage = BPE.find("second_half_kept")
    assert mine.recognise(BPE, sabotage, path).says == "Every check still holds: nothing is broken yet."
    path.write_text(solution(BPE).replace("i += 2", "i += 1"), encoding="utf-8")
    again = mine.copy_of(file, "second_half_kept")
    assert (again.path, again.new) == (path, False)
    assert mine.recognise(BPE, sabotage, path).as_declared
    other = mine.recognise(BPE, BPE.find("ties_to_the_larger"), path)
    assert not other.as_declared
    assert "second_half_kept" in other.says
    path.write_text(solution(BPE).replace("i += 2", "i += 3"), encoding="utf-8")
    assert "not one we know" in mine.recognise(BPE, sabotage, path).says
    assert file.read_text(encoding="utf-8") == solution(BPE)


ATTENTION = find_project("attention")
TRIANGLE = "seen = causal_mask(x.shape[-2], device=x.device).to(x.dtype)"
REFUSAL = "if not mask.any(-1).all():\n        raise ShapeError(f'row {int((~mask.any(-1)).nonzero()[0, -1])} is blind')"
OWN = "seen = torch.ones(x.shape[-2], x.shape[-2]).tril().to(x.dtype)"


def later(*values: Any) -> Any:
    """One of many alike, for `make test-slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "changes", "good", "says"),
    [
        ("mask_off_by_one", {"tril(S - T)": "tril(S - T + 1)"}, True, "exactly like mask_off_by_one"),
        later("mask_off_by_one", {"tril(S - T)": "triu(S - T - S).tril(S - T + 1)"}, True, "exactly like mask_off_by_one"),  # by other means
        later("self_hidden", {"tril(S - T)": "tril(S - T - 1)", "require_visible(mask)": REFUSAL}, True, "exactly like self_hidden"),  # in other words
        ("mask_off_by_one", {TRIANGLE: OWN, "tril(S - T)": "tril(S - T + 1)"}, True, "Past is averaged holds all the same: your file does not go"),
        ("mask_off_by_one", {"tril(S - T)": "tril(S - T + 2)"}, False, "mask is a triangle finds 1, where the break gives 0"),
        later("mask_off_by_one", {TRIANGLE: OWN.replace("tril()", "tril(1)")}, False, "mask is a triangle"),  # the seam itself is whole
        later("mask_off_by_one", {"tril(S - T)": "tril(S - T + 1)", "/ math.sqrt(q.shape[-1])": ""}, False, "scores are scaled, attend equals torch"),
        ("no_scale", {"return weights @ x": 'raise NotWritten("average_past")'}, False, "past is averaged is not written (average_past)"),
        ("no_scale", {"scores = q @ k": "scores = p @ k"}, False, "ends with NameError: name 'p' is not defined at attention.py, line"),
    ],
)
def test_a_copy_is_told_in_which_respect_it_differs(name: str, changes: dict[str, str], good: bool, says: str, tmp_path: Path) -> None:
    text = solution(ATTENTION).replace("import torch\n", "import torch\nfrom underhood.base.errors import NotWritten, ShapeError\n", 1)
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = tmp_path / "attention.py"
    file.write_text(text, encoding="utf-8")
    found = mine.recognise(ATTENTION, ATTENTION.find(name), file)
    assert found.as_declared is good, found.says
    assert says in found.says
