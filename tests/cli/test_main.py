"""The front door: what it prints, where, with which exit code, and what it must not import."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Annotated

import pytest
import typer

from underhood.base.errors import DataError, NonFinite, UnderhoodError
from underhood.cli import main as front


def underhood(*arguments: str, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "UNDERHOOD_DATA") if name in os.environ}
    command = [sys.executable, "-m", "underhood", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=kept | environment, cwd=cwd, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb called ``probe`` whose ``command`` the test sets."""
    module = types.ModuleType("underhood.cli.probe")
    monkeypatch.setitem(sys.modules, "underhood.cli.probe", module)
    monkeypatch.setattr(front, "verbs", lambda: ["probe"])
    return module


def raising(error: BaseException) -> object:
    def command() -> None:
        raise error

    return command


# ── help ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_every_verb_in_its_group_with_one_line(word: str) -> None:
    found = underhood(word)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    headings = [lines.index(group) for group in ("Learn", "Use", "More") if group in lines]
    assert headings == sorted(headings)
    for name in front.verbs():
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1


def test_a_verb_whose_module_is_missing_is_not_offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(front.VERBS["More"], "levitate", "not written")
    assert front.main(["--help"]) == 0
    assert "levitate" not in capsys.readouterr().out
    assert front.main(["levitate"]) == 2


def test_help_and_the_bare_command_import_nothing_heavy(tmp_path: Path) -> None:
    for words in ([], ["--help"], ["--version"]):
        script = f"import sys; from underhood.cli.main import main; main({words!r}); print(sorted(sys.modules), file=sys.stderr)"
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
        loaded = set(found.stderr.strip("[]\n").replace("'", "").split(", "))
        assert "underhood.cli.main" in loaded
        assert not loaded & {"torch", "numpy", "rich", "typer", "matplotlib", "regex"}


@pytest.mark.parametrize("words", [["--help"], ["map"], ["list"], ["map", "--help"], []])
def test_forty_columns_are_enough(words: list[str], tmp_path: Path) -> None:
    found = underhood(*words, cwd=tmp_path, COLUMNS="40")
    assert found.returncode == 0
    assert max(map(len, found.stdout.splitlines())) <= 40


def test_it_works_without_a_home_and_without_colour(tmp_path: Path) -> None:
    for environment in ({}, {"NO_COLOR": "1"}, {"HOME": "/nonexistent"}, {"TERM": "dumb", "PYTHONIOENCODING": "ascii"}):
        found = underhood("list", cwd=tmp_path, **environment)
        assert (found.returncode, found.stderr) == (0, "")
        assert "\x1b" not in found.stdout
        assert "attention" in found.stdout


# ── mistakes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "nearest"),
    [(["mpa"], "'map'"), (["--hlep"], "'--help'"), (["map", "--jsn"], "'--json'"), (["list", "atention"], "'attention'"), (["list", "--kils"], "'--kills'")],
)
def test_a_misspelling_is_answered_with_the_nearest(words: list[str], nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"Did you mean {nearest}?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["map", "extra"], ["init", "a", "b"]])
def test_a_surplus_argument_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(words) == 2
    assert f"See: underhood {words[0]} --help" in capsys.readouterr().err


def test_nothing_near_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["xyzzy"]) == 2
    assert "Known: " in capsys.readouterr().err


# ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("is empty", where="a.txt"), 2, "underhood: a.txt: is empty"),
        (NonFinite("the loss", step=3), 1, "underhood: the loss is not finite at step 3"),
        (UnderhoodError("ours"), 1, "underhood: ours"),
        (KeyboardInterrupt(), 130, "underhood: interrupted"),
        (typer.Abort(), 130, "underhood: interrupted"),
        (ZeroDivisionError("x"), 1, "run again with --debug"),
        (ModuleNotFoundError("no numba", name="numba.core"), 2, "pip install -e '.[fast]'"),
        (ModuleNotFoundError("no torch_like", name="torch_like"), 1, "incomplete"),
        (typer.Exit(7), 7, ""),
    ],
)
def test_every_ending_has_its_code_and_one_message(
    error: BaseException, code: int, words: str, verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.command = raising(error)  # type: ignore[attr-defined]
    assert front.main(["probe"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert err.count("\n") == (1 if words else 0)


@pytest.mark.parametrize("line", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_shows_where(line: list[str], verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    verb.command = raising(DataError("is empty"))  # type: ignore[attr-defined]
    assert front.main(line) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("underhood: is empty\n")


def test_debug_after_two_dashes_is_an_argument(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def command(text: Annotated[str, typer.Argument()]) -> None:
        print(text)

    verb.command = command  # type: ignore[attr-defined]
    assert front.main(["probe", "--", "--debug"]) == 0
    assert capsys.readouterr().out == "--debug\n"


def test_a_verb_may_have_verbs_of_its_own(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def one() -> None:
        print("first")

    @app.command()
    def other(*, loud: bool = False) -> None:
        print("second", loud)

    verb.app = app  # type: ignore[attr-defined]
    assert front.main(["probe", "one"]) == 0
    assert front.main(["probe", "other", "--loud"]) == 0
    assert capsys.readouterr().out == "first\nsecond True\n"
    assert front.main(["probe", "otter"]) == 2
    assert capsys.readouterr().err == "underhood: underhood probe: no such command 'otter'. Did you mean 'other'?\n"
    assert front.main(["probe", "other", "--lout"]) == 2
    assert "underhood probe other: unknown option '--lout'. Did you mean '--loud'?" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-m", "underhood", "map"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()  # before the first letter is written: the interpreter is still starting
    assert process.stderr is not None
    message = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), message) == (front.CLOSED_PIPE, "")


# ── json ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [["map"], ["list"], ["list", "attention"], ["init", "course"]])
def test_under_json_stdout_holds_json_alone(words: list[str], tmp_path: Path) -> None:
    found = underhood(*words, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)


def test_an_error_leaves_stdout_empty_under_json() -> None:
    found = underhood("list", "nothing-like-it", "--json")
    assert (found.returncode, found.stdout) == (2, "")


# ── every verb ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", front.verbs())
def test_the_help_of_every_verb_comes_without_torch(name: str) -> None:
    script = f"import sys; from underhood.cli.main import main; code = main([{name!r}, '--help']); print('torch' in sys.modules, file=sys.stderr)"
    script += "; sys.exit(code)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8", check=False)
    assert (found.returncode, found.stderr.strip()) == (0, "False")
    assert found.stdout.startswith(f"Usage: underhood {name}")
