"""What a learner sees of ``break --mine``, ``break --predict`` and ``plug``: every slip is said and waited for, and the end says what now."""

import dataclasses
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from underhood.base.errors import NotReached
from underhood.cli import break_learner
from underhood.cli import plug as plug_command
from underhood.cli.main import main
from underhood.lab.run import Arm
from underhood.projects.registry import find_project
from underhood.workbench import course, mine, plug
from underhood.workbench.starter import contract, solution

PREFLIGHT = find_project("preflight")
WHOLE = solution(PREFLIGHT)
BROKEN = WHOLE.replace("zip(a, b, strict=True)", "zip(a[:-1], b[:-1], strict=True)")
SETTLED = ["--seeds", "1"]


class Typist(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course with a whole ``my/preflight.py``, we in it; where its copy will be."""
    course.create(tmp_path)
    (tmp_path / "my" / "preflight.py").write_text(WHOLE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "my" / "broken" / "preflight.py"


def types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Typist("".join(f"{line}\n" for line in lines)))


def edits(monkeypatch: pytest.MonkeyPatch, path: Path, *texts: str) -> Iterator[str]:
    """Each time the command waits, the next text is saved; after the last, Ctrl-C."""
    left = iter(texts)

    def save(seconds: float) -> None:
        text = next(left, None)
        if text is None:
            raise KeyboardInterrupt
        path.write_text(text, encoding="utf-8")

    monkeypatch.setattr(break_learner, "time", SimpleNamespace(sleep=save))
    return left


# ── break --mine ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_state_of_a_half_written_copy_is_waited_for(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    types(monkeypatch)
    left = edits(monkeypatch, copy, WHOLE.replace("def dot(", "def dot(("), "", BROKEN.replace("a[:-1]", "a[:-l]"), BROKEN)
    assert main(["break", "preflight.last_dropped", "--mine", *SETTLED]) == 0
    told = capsys.readouterr()
    assert list(left) == []
    lines = told.out.splitlines()
    assert "Every check still holds: nothing is broken yet." in lines
    assert any(line.startswith("preflight.py, line ") and "the file cannot be run: SyntaxError: " in line for line in lines)
    empty = next(line for line in lines if "It cannot be compared" in line)
    assert "dot is not in the file), and " in empty
    assert len(empty) < 160
    assert any("ends with NameError: name 'l' is not defined at preflight.py, line " in line for line in lines)
    assert "It behaves exactly like last_dropped." in lines
    assert "Running the checks on my/broken/preflight.py …" in told.err
    assert f"Running the {len(PREFLIGHT.checks())} checks on my/preflight.py …" in told.err
    assert lines[-2] == "Report: runs/mine-preflight.last_dropped/report.html"
    assert lines[-1].startswith("Next: underhood break preflight.")
    assert main(["report", "runs/mine-preflight.last_dropped"]) == 0
    types(monkeypatch, "n")
    assert main([*lines[-1].removeprefix("Next: underhood ").split(), *SETTLED]) == 130, "a command that exists; the copy is not that break yet"


def test_an_older_copy_is_told_and_begun_afresh_when_asked(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["break", "preflight.last_dropped", "--mine"]) == 2
    assert "Copied to my/broken/preflight.py" in capsys.readouterr().out
    assert main(["break", "preflight.last_dropped", "--mine"]) == 2
    out = capsys.readouterr().out
    assert "my/broken/preflight.py is there already, made for last_dropped, last changed 20" in out
    assert "the same command with --fresh" in out
    assert "has changed since" not in out
    copy.write_text(BROKEN, encoding="utf-8")
    copy.parents[1].joinpath("preflight.py").write_text(f"{WHOLE}\n# better\n", encoding="utf-8")
    types(monkeypatch, "y")
    edits(monkeypatch, copy)
    assert main(["break", "preflight.last_dropped", "--mine"]) == 130
    out = capsys.readouterr().out
    assert "my/preflight.py has changed since it was copied" in out
    assert "Begin afresh from my/preflight.py?" in out
    assert copy.read_text(encoding="utf-8").endswith("# better\n")
    [kept] = [p for p in copy.parent.iterdir() if p != copy]
    assert kept.read_text(encoding="utf-8") == BROKEN


def test_fresh_begins_with_a_new_copy_and_keeps_the_old(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    mine.copy_of(copy.parents[1] / "preflight.py", "last_dropped")
    copy.write_text(BROKEN, encoding="utf-8")
    assert main(["break", "preflight.last_dropped", "--mine", "--fresh"]) == 2
    assert "Copied to my/broken/preflight.py" in capsys.readouterr().out
    assert copy.read_text(encoding="utf-8") == WHOLE
    assert [p.read_text(encoding="utf-8") for p in copy.parent.iterdir() if p != copy] == [BROKEN]


def test_a_copy_for_another_break_is_asked_about_and_kept(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mine.copy_of(copy.parents[1] / "preflight.py", "no_such_break")
    copy.write_text(BROKEN, encoding="utf-8")
    types(monkeypatch, "")
    assert main(["break", "preflight.last_dropped", "--mine", *SETTLED]) == 0
    assert "made for no_such_break" in capsys.readouterr().out
    assert copy.read_text(encoding="utf-8") == BROKEN


def test_without_a_note_the_times_of_the_files_count(tmp_path: Path) -> None:
    file = tmp_path / "preflight.py"
    file.write_text(WHOLE, encoding="utf-8")
    path = mine.copy_of(file, "x").path
    assert not mine.copy_of(file, "x").older
    os.utime(path, (1, 1))
    assert mine.copy_of(file, "x").older


def test_a_file_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    """Editors that save by renaming take it away for a moment."""
    assert break_learner._stamp(tmp_path / "none.py") == (0, 0)
    found = mine.recognise(PREFLIGHT, PREFLIGHT.find("last_dropped"), tmp_path / "none.py")
    assert not found.as_declared
    assert "no such file" in found.says


def test_a_run_that_never_calls_what_was_sabotaged_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage = PREFLIGHT.find("last_dropped")
    [seam] = mine.broken_seams(PREFLIGHT, sabotage)
    healthy, broken = tmp_path / "healthy.py", tmp_path / "broken.py"
    healthy.write_text(WHOLE, encoding="utf-8")
    broken.write_text(BROKEN, encoding="utf-8")
    arms = [Arm(label="preflight.last_dropped", baseline=sabotage.baseline, seed=0, how="done", unreached=[seam])]
    monkeypatch.setattr(mine, "run_jobs", lambda *args, **options: arms)
    with pytest.raises(NotReached, match="never calls what you sabotaged"):
        mine.run_mine(PREFLIGHT, sabotage, healthy, broken, [0], tmp_path)


def test_what_both_runs_wrote_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    break_learner._wrote({"sample": "The cat."}, {"sample": "aaaa"})
    assert " ".join(capsys.readouterr().out.split()) == "sample, healthy (seed 0): The cat. sample, broken (seed 0): aaaa"
    break_learner._wrote({}, {"sample": "x"})
    assert capsys.readouterr().out == ""


# ── break --predict ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_that_is_none_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from underhood.workbench import predict

    types(monkeypatch, "lower", "6", "worse", "noise", "a lot", "inf", "0,3")
    guess = break_learner._guess(predict)
    assert guess == predict.Guess(direction="worse", sees="noise", number=0.3)
    told = capsys.readouterr().out
    for text in ("lower", "6", "a lot", "inf"):
        assert f"«{text}» is no answer to this." in told
    types(monkeypatch, "", "", "")
    assert break_learner._guess(predict) == predict.Guess()
    types(monkeypatch, "lower")  # and then nobody types any more
    assert break_learner._guess(predict) == predict.Guess()


def test_the_readers_prediction_is_judged_and_the_source_of_the_figures_said(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(break_learner, "_stored", lambda *args: None)
    said = []
    for _ in range(2):
        types(monkeypatch, "lower", "worse", "", "1000", "")
        assert main(["break", "preflight.last_dropped", "--predict"]) == 0
        said.append(capsys.readouterr())
    for told in said:
        assert "Measured: " in told.out
        assert "Your direction, worse, is right. Your number, 1000, is larger than all of the measured interval" in told.out
        assert told.out.index("Your direction") < told.out.index("What we had predicted")
    assert "it is measured first" in said[0].err
    assert "it is measured first" not in said[1].err
    assert "by an earlier run; nothing to run" in said[1].err
    assert course.read_state(copy.parents[2])["predictions"] == {"asked": 2, "right": 2, "breaks": ["preflight.last_dropped"]}


# ── plug ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plugged(reference: dict[str, Any], own: dict[str, Any], times: tuple[tuple[float, float], ...], curves: tuple[float, float] = (1.0, 1.0)) -> plug.Plugged:
    baseline = plug.arena(PREFLIGHT)
    arms = [
        Arm(label=label, baseline=baseline.name, seed=0, how="done", figures=figures, curve=[{"step": 0, "loss": first}], seconds=1.0, peak_mb=100.0)
        for label, figures, first in zip(("healthy", "mine"), (reference, own), curves, strict=True)
    ]
    return plug.Plugged(baseline=baseline, reference=arms[0], mine=arms[1], used=("dot",), unused=("slope",), times=times)


def said(result: plug.Plugged, capsys: pytest.CaptureFixture[str]) -> str:
    plug_command._say(PREFLIGHT, result, plug.figures(result), None)
    return " ".join(capsys.readouterr().out.split())


def test_plug_says_whether_the_figures_agree(capsys: pytest.CaptureFixture[str]) -> None:
    smallest = plug.arena(PREFLIGHT).metrics["loss"].smallest
    near = said(plugged({"loss": 0.2, "sums_to_one": True}, {"loss": 0.2 + 0.9 * smallest, "sums_to_one": True}, ((1.0, 1.1), (1.0, 0.9))), capsys)
    assert "all 2 figures agree within what this run can tell apart" in near
    assert "Yours that ran: dot. This run does not call: slope." in near
    assert "starts differ" not in near
    far = said(plugged({"loss": 0.2, "sums_to_one": True}, {"loss": 0.2 + 2 * smallest, "sums_to_one": False}, ((1.0, 1.0),)), capsys)
    assert "2 of 2 figures differ" in far
    assert f"(of interest from {smallest} on)" in far
    assert "True and False" in far


def test_plug_says_when_the_starts_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert "The starts differ: the first loss is 1 and 1.2" in said(plugged({}, {}, ((1.0, 1.0),), (1.0, 1.2)), capsys)
    assert "starts differ" not in said(plugged({}, {}, ((1.0, 1.0),), (1.0, 1.0 + 1e-6)), capsys)


@pytest.mark.parametrize(
    ("times", "says", "noise"),
    [
        (((1.0, 1.1), (1.0, 0.9), (1.0, 1.05)), "1.05 times the reference's time (0.90 to 1.10 in 3 rounds)", True),
        (((1.0, 2.0), (2.0, 5.0), (1.0, 2.1)), "2.10 times the reference's time (2.00 to 2.50 in 3 rounds)", False),
    ],
)
def test_a_time_comes_with_its_spread(times: tuple[tuple[float, float], ...], says: str, noise: bool, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(plugged({}, {}, times), capsys)
    assert says in told
    assert ("no difference can be told from noise" in told) is noise
    assert "seconds a run, without its start (median of 3)" in told


def test_the_figures_of_the_start_come_first() -> None:
    baseline = plug.arena(find_project("scalar"))
    figures = {"loss": 0.1, "first_loss": 1.0}
    arm = Arm(label="healthy", baseline=baseline.name, seed=0, how="done", figures=figures, seconds=1.0, peak_mb=1.0)
    result = plug.Plugged(baseline=baseline, reference=arm, mine=dataclasses.replace(arm, label="mine"), used=(), times=((1.0, 1.0),))
    assert [row.reference for row in plug.figures(result)][:2] == [1.0, 0.1]


def test_a_newer_contract_is_shown_and_how_to_have_it_said_no_more(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy.parents[1] / "preflight.py"
    name, hashed = next(iter(contract(PREFLIGHT).items()))
    file.write_text(f"# contract of preflight\n# {name}=00000000 {' '.join(f'{n}={h}' for n, h in contract(PREFLIGHT).items() if n != name)}\n\n{WHOLE}")
    main(["check", "preflight"])
    out = capsys.readouterr().out
    assert f"the contract of {name} has changed" in out
    assert f"    def {name}(" in out
    assert "NotWritten" not in out
    assert f"write {name}={hashed} into the lines" in " ".join(out.split())
    file.write_text(file.read_text().replace(f"{name}=00000000", f"{name}={hashed}"))
    main(["check", "preflight"])
    assert "contract" not in capsys.readouterr().out
