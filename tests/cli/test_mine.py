"""What a learner's own file meets in ``solution``, ``plug``, ``train --with`` and ``break --mine``: asked, refused, crashed, stopped, measured."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from underhood.base.errors import FileSystemError
from underhood.cli.main import main
from underhood.projects.registry import find_project
from underhood.workbench import course, plug
from underhood.workbench.starter import solution, starter

PREFLIGHT, ATTENTION = find_project("preflight"), find_project("attention")
LATER = "count = 0\n\n\ndef dot(a, b):\n    global count\n    count += 1\n    if count > 5000:\n        {}\n"  # more often than the checks ever call it


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course folder, and we in it."""
    course.create(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def says(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What stdout and stderr hold, line ends as spaces."""
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return " ".join(told.out.split()), " ".join(told.err.split())


# ── solution ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "asked", "shown"), [("n\n", 1, False), ("\n", 1, False), ("y\nn\n", 2, False), ("y\n\n", 2, False), ("y\nyes\n", 2, True)])
def test_the_solution_asks_twice(
    typed: str, asked: int, shown: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "my" / "preflight.py"
    path.write_text("# mine\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert main(["solution", "preflight"]) == (0 if shown else 1)
    told = capsys.readouterr()
    assert told.err.count("[y/N]") == asked
    assert told.out == (solution(PREFLIGHT) if shown else "")
    assert ("Nothing shown." in told.err) is not shown
    assert path.read_text(encoding="utf-8") == "# mine\n"


def test_the_solution_is_not_shown_where_nobody_types(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\n"))
    assert main(["solution", "preflight"]) == 1
    assert capsys.readouterr().out == ""
    assert main(["solution", "preflight", "--yes"]) == 0
    assert capsys.readouterr().out == solution(PREFLIGHT)


# ── plug ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def written(folder: Path, misdeed: str) -> None:
    """``my/preflight.py``, right until its dot product was called 5,000 times."""
    text = solution(PREFLIGHT)
    assert text.count("def dot(") == 1
    before, _, body = text.partition("def dot(")
    later = LATER.format(misdeed) + "    return _dot(a, b)\n\n\n"
    (folder / "my" / "preflight.py").write_text(f"{before}{later}def _dot({body}", encoding="utf-8")


def test_a_part_that_crashes_the_run_is_told_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, 'raise KeyError("row 5001")')
    assert main(["plug", "preflight"]) == 1
    out, _ = says(capsys)
    assert "the run ended early: KeyError: 'row 5001'" in out
    assert "The checks do not reach this" in out
    assert "plugs" not in course.read_state(folder), "a run that ended early is no time to compare with"
    assert main(["plug", "preflight", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["how"] == "KeyError"


@pytest.mark.slow
def test_a_part_that_is_too_slow_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(plug, "SPARE", 6.0)
    written(folder, "while True:\n            pass")
    assert main(["plug", "preflight"]) == 1
    out, _ = says(capsys)
    assert "it was stopped after 8 s; the reference took" in out


# ── train --with ──────────────────────────────────────────────────────────────────────────────────────────────────────

TINY = ["--data", "texts.txt", "--steps", "2", "--depth", "1", "--set", "batch_size=2", "--set", "model.context=16", "--set", "vocab_size=270", "--json"]


def test_train_with_a_part_says_what_of_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("The cat sat on the mat. The dog lay by the door and looked at the cat. " * 120, encoding="utf-8")
    Path("own.py").write_text(solution(ATTENTION), encoding="utf-8")
    assert main(["train", *TINY, "--with", "attention=own.py"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["step"] == 2
    assert "yours: attention (own.py)" in told.err
    [ran] = [line for line in told.err.splitlines() if line.startswith("parts of yours that ran: ")]
    assert {"MultiHeadAttention", "attend", "causal_mask"} <= set(ran.partition(": ")[2].split(", "))
    assert "average_past" not in ran


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, ["own.py: no such file"]),
        ("", [f"0 of {len(ATTENTION.checks())} checks hold; next: Average the past (step 1)", "underhood check attention --file"]),
        ("def attend(:\n", ["own.py, line 1: the file cannot be run: SyntaxError"]),
    ],
)
def test_train_with_a_part_that_does_not_hold_is_refused(
    text: str | None, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("own.py").write_text(text or starter(ATTENTION), encoding="utf-8")
    assert main(["train", *TINY, "--with", "attention=own.py"]) == 2
    _, err = says(capsys)
    for words in told:
        assert words in err
    assert not Path("runs").exists()


# ── a progress file that cannot be written ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / course.PROGRESS
    path.chmod(0o444)
    if os.access(path, os.W_OK):  # who runs this may write everything
        may = os.access
        monkeypatch.setattr(os, "access", lambda p, mode: may(p, mode) and not (Path(p) == path and mode == os.W_OK))
    return path


def test_with_a_read_only_progress_file_commands_still_work(read_only: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_only.read_text(encoding="utf-8")
    assert main(["start", "preflight"]) == 0
    says(capsys)
    for words, code, told in (
        (["check", "preflight"], 1, "next: the dot product (step 1)"),
        (["hint", "preflight"], 0, "hint 1 of 3"),
        (["hint", "preflight"], 0, "hint 1 of 3"),
        (["reset", "preflight"], 0, "is blank again"),
    ):
        assert main(words) == code
        out, err = says(capsys)
        assert told in out
        assert "progress.toml: is read-only (so this is not noted; all else is done)" in err
    assert main(["progress"]) == 0
    assert read_only.read_text(encoding="utf-8") == before


def test_what_cannot_be_noted_is_said_and_what_must_be_written_raises(read_only: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not course.keep_state(folder, {"projects": {}})
    assert "is read-only" in capsys.readouterr().err
    with pytest.raises(FileSystemError, match="is read-only"):
        course.write_state(folder, {"projects": {}})


# ── break --mine ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def finished(folder: Path) -> Path:
    """``my/preflight.py``, whole."""
    path = folder / "my" / "preflight.py"
    path.write_text(solution(PREFLIGHT), encoding="utf-8")
    return path


def test_a_copy_that_is_not_sabotaged_yet_is_waited_for(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["break", "preflight.last_dropped", "--mine", "--seeds", "1"]) == 2
    out, err = says(capsys)
    assert "Where: dot. Your own file stays as it is." in out
    assert "nothing is broken yet" in out
    assert "the copy is not last_dropped yet" in err
    assert (finished.parent / "broken" / "preflight.py").read_text(encoding="utf-8") == solution(PREFLIGHT)
    assert main(["break", "preflight", "--mine"]) == 2
    assert "expected one break" in says(capsys)[1]
    assert main(["break", "preflight.last_dropped", "--mine", "--predict"]) == 2


def test_a_break_by_hand_is_run_to_its_verdicts(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    copy = finished.parent / "broken" / "preflight.py"
    copy.parent.mkdir()
    text = solution(PREFLIGHT).replace("zip(a, b, strict=True)", "zip(a[:-1], b[:-1], strict=True)")
    copy.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["break", "preflight.last_dropped", "--mine", "--seeds", "2"]) == 0
    out, err = says(capsys)
    assert "It behaves exactly like last_dropped." in out
    assert "Healthy is your own part, broken is your sabotage of it:" in out
    assert "4 arms" in err
    assert "loss rises by at least 0.2 +" in out
    assert "sums_to_one still holds holds in 2 of 2 healthy, 2 of 2 broken" in out
    assert "preview" in out
    assert finished.read_text(encoding="utf-8") == solution(PREFLIGHT)
    assert copy.read_text(encoding="utf-8") == text


def test_a_break_by_setting_needs_no_edit(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["break", "preflight.width_below_rounding", "--mine", "--seeds", "1"]) == 0
    out, _ = says(capsys)
    assert "Your own part, healthy and under the setting:" in out
    assert "loss rises by at least 0.5 +" in out
    assert not (finished.parent / "broken").exists()
