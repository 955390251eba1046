"""A learner's own tests, graded: they must pass on the reference, and each break of code should make one of them fail.

The file holds functions ``def test_…(part)``; ``part`` has the project's seams. It runs in a locked process of its own.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from underhood.base.errors import DataError, UserError
from underhood.lab.patch import applied
from underhood.projects.registry import Project, find_project
from underhood.workbench import sandbox
from underhood.workbench.hollow import name_of_seam

SECONDS = 300
SHOWN = 200  # characters of a failure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """``reference``: tests that fail on the healthy part, with what they say; ``caught``: break → the tests that fail on it."""

    count: int
    reference: dict[str, str]
    caught: dict[str, list[str]]
    silent: tuple[str, ...]

    @property
    def silent_escape(self) -> list[str]:
        """Silent breaks that no test sees."""
        return [name for name in self.silent if name in self.caught and not self.caught[name]]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"tests": self.count, "fail_on_reference": self.reference, "caught": self.caught, "silent_escape": self.silent_escape}


def grade(project: Project, tests: Path) -> Grade:
    """Grade the tests in ``tests``. Raises ``DataError`` when the file cannot be read or holds no test, ``UserError`` when it ends or stalls the process."""
    if not tests.is_file():
        raise DataError("no such file", where=str(tests))
    with tempfile.TemporaryDirectory(prefix="underhood-") as folder:
        task = json.dumps({"slug": project.slug, "file": str(tests), "text": tests.read_text(encoding="utf-8"), "folder": folder})
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": folder}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "underhood.workbench.grading"],
                input=task,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env=environment,
                cwd=folder,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the tests did not end within {SECONDS} s", where=str(tests)) from error
    line = next((row for row in reversed(done.stdout.splitlines()) if row.startswith("{")), "")
    if not line:
        raise UserError(f"the tests ended the process (exit code {done.returncode})", where=str(tests), remedy=done.stderr.strip()[-400:])
    found = json.loads(line)
    if "wrong" in found:
        parts = ", ".join(name_of_seam(seam) for seam in project.seams)
        raise DataError(found["wrong"], where=str(tests), expected=f"functions `def test_…(part)`, where `part` has {parts}; no import of your own files")
    return Grade(**found, silent=tuple(b.name for b in project.breaks() if b.silent and b.kind == "part"))


def main() -> None:
    """In the locked process: run every test on the healthy part and under each break, and print what came of it as one line of JSON."""
    task = json.load(sys.stdin)
    project = find_project(task["slug"])
    project.part_now()
    breaks = [b for b in project.breaks() if b.kind == "part"]
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sandbox.lock(Path(task["folder"]), [])
    module = types.ModuleType("learner_tests")
    try:
        exec(compile(task["text"], task["file"], "exec"), module.__dict__)
    except BaseException as error:
        _say(out, {"wrong": f"{type(error).__name__}: {error}"})
        return
    tests = {n: t for n, t in vars(module).items() if n.startswith("test") and isinstance(t, types.FunctionType)}
    if not tests:
        _say(out, {"wrong": "holds no test"})
        return
    reference = {n: says for n, t in tests.items() if (says := _failure(t, project)) is not None}
    caught = {}
    for sabotage in breaks:
        with applied(sabotage.patches):
            caught[sabotage.name] = [n for n, t in tests.items() if _failure(t, project) is not None]
    _say(out, {"count": len(tests), "reference": reference, "caught": caught})


def _failure(test: Callable[[Any], None], project: Project) -> str | None:
    try:
        test(project.part_now())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:SHOWN]
    return None


def _say(out: Any, found: dict[str, Any]) -> None:
    print("\n" + json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
