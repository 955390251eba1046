"""The process that decides: it holds the checks and their oracles, and asks the player, in which the learner's file runs, for results.

What a check gets as ``part`` is the learner's seams seen from here (``peer.Remote``). The checks are the same functions that judge our own stack.
"""

import contextlib
import dataclasses
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from underhood.base.errors import DataError, NotWritten, UserError
from underhood.base.rng import stream_seed
from underhood.lab.check import Check, CheckFailed
from underhood.projects.registry import Project
from underhood.workbench.cells import loaded_torch
from underhood.workbench.hollow import hidden_files, hollow_modules, name_of_seam
from underhood.workbench.peer import Peer
from underhood.workbench.remote import Remote
from underhood.workbench.wire import Lost, Pipe

State = Literal["holds", "wrong", "not written", "borrowed", "stopped"]
START_SECONDS = 60.0  # importing torch on a busy machine
CHECK_SECONDS = 30.0
PRINTED = 4000  # characters of the learner's own output that are kept
SHOWN = 400  # characters of an object of the learner's
COMMAND = "from underhood.workbench.player import main; main({read}, {write})"
FLOOD = 8 * 2**20  # bytes of output after which the player is stopped
LARGEST_FILE = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one check."""

    check: Check
    state: State
    says: str = ""
    given: Any = None
    expected: Any = None
    found: Any = None
    place: str = ""  # of an error in the learner's file
    printed: str = ""

    @property
    def plain(self) -> tuple[str, str, Any]:
        """What two implementations with the same fault have in common."""
        return (self.state, self.says, self.found)


class Player:
    """The learner's file in a process of its own; started anew after it was stopped."""

    def __init__(self, project: Project, file: Path) -> None:
        self.project, self.file = project, file
        self.text = _read(file)
        self.process: subprocess.Popen[bytes] | None = None
        self.output = _Output()
        self.strength = ""

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and load the file. Raises ``Unusable`` when the file cannot be run, ``Lost`` when the process does not come up."""
        self.folder = tempfile.TemporaryDirectory(prefix="underhood-")
        theirs, ours = os.pipe(), os.pipe()
        code = COMMAND.format(read=theirs[0], write=ours[1])
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs[0], ours[1]),
            cwd=self.folder.name,
            env=_environment(self.folder.name),
            start_new_session=True,
        )
        os.close(theirs[0])
        os.close(ours[1])
        self.output = _Output(self.process)
        self.pipe = Pipe(ours[0], theirs[1])
        self.pipe.deadline = time.monotonic() + START_SECONDS
        self.pipe.send(self._setup(), [])
        self.strength = str(self.pipe.receive()[0].get("locked", ""))
        self.pipe.deadline = time.monotonic() + CHECK_SECONDS
        try:
            answer, _ = self.pipe.receive()
        except Lost as lost:
            raise Unusable(f"{_why(self, lost)}, while the file was being loaded", None, borrowed=False) from lost
        if "wrong" in answer:
            raise Unusable(str(answer["wrong"]), answer.get("line"), borrowed=bool(answer.get("borrowed")))
        self.seams, self.imported = set(answer["seams"]), set(answer["imported"])
        self.peer = Peer(self.pipe, trusting=False)

    def _setup(self) -> dict[str, Any]:
        project = self.project
        twins = [b for b in project.borrowed if b.startswith("underhood.")]
        modules = {b for b in project.borrowed if "." not in b or _is_module(b)}
        return {
            "file": str(self.file),
            "text": self.text,
            "seams": [name_of_seam(seam) for seam in project.seams],
            "hollow": hollow_modules(project.seams),
            "hidden": hidden_files([*project.seams, *twins]),
            "refused": sorted(modules),
            "borrowed": [b for b in project.borrowed if b not in modules],
            "folder": self.folder.name,
            "torch": "torch" not in project.borrowed,
            "numpy": "numpy" not in project.borrowed,
            "warm": ["jaxtyping"] if "numpy" not in project.borrowed else [],
        }

    def part(self) -> SimpleNamespace:
        """The learner's seams as a check wants them; those that the file lacks raise ``NotWritten`` when they are used."""
        names = [name_of_seam(seam) for seam in self.project.seams]
        module = _Mine(self.peer)
        missing = {n: _Refusing(NotWritten(f"{n} is not in the file")) for n in names if n not in self.seams}
        borrowed = {n: _Refusing(_borrowed(f"{n} is ours, or built on ours: it is what this project has you write")) for n in self.imported}
        return SimpleNamespace(**({n: module.get(n) for n in names if n not in missing and n not in borrowed} | missing | borrowed))

    def fresh(self) -> None:
        """Make sure that the process runs, and that nothing of an earlier check is left in it that we hold."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()
        self.pipe.deadline = time.monotonic() + CHECK_SECONDS
        self.peer.request("reset", thing=None)
        self.peer.reset()

    def stop(self) -> None:
        """End the process and remove its folder."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.output.join()
            for descriptor in (self.pipe.read, self.pipe.write):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self.folder.cleanup()
            self.process = None


class Unusable(UserError):
    """The learner's file cannot be run at all."""

    def __init__(self, says: str, line: int | None, *, borrowed: bool) -> None:
        self.line, self.borrowed = line, borrowed
        super().__init__(says)

    def of(self, file: Path) -> str:
        """The sentence for a person: file, line and error."""
        return f"{file.name}{f', line {self.line}' if self.line else ''}: the file cannot be run: {self}"


class _Mine:
    """The learner's module in the player, as the thing whose attributes are asked for."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def get(self, name: str) -> Any:
        return self.peer.request("mine", thing=None, name=name)


class _Refusing:
    """A seam that the file does not have, or that is not its own: every use raises."""

    def __init__(self, error: Exception) -> None:
        object.__setattr__(self, "_error", error)

    def __call__(self, *args: Any, **options: Any) -> Any:
        raise self._error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def _borrowed(says: str) -> ImportError:
    error = ImportError(says)
    error.__dict__.update(found_as="Borrowed")
    return error


def run_checks(player: Player, checks: Sequence[Check], *, seed: int = 0) -> Iterator[Outcome]:
    """Run the checks one after the other, in order."""
    for check in checks:
        yield run_one(player, check, seed=seed)


def inputs(check: Check, seed: int = 0) -> random.Random:
    """The random numbers of a check. torch's own generator starts anew too: layers draw their first weights from it, a learner's as well as torch's."""
    stream = stream_seed(seed, f"check/{check.name}")
    if torch := loaded_torch():
        torch.manual_seed(stream)
    return random.Random(stream)


def run_one(player: Player, check: Check, *, seed: int = 0) -> Outcome:
    """What becomes of one check. Never raises for what the learner's file does, except ``Unusable``."""
    try:
        player.fresh()
        player.output.clear()
        check.run(player.part(), inputs(check, seed))
        outcome = Outcome(check=check, state="holds")
    except CheckFailed as failure:
        outcome = _plainly(player, _failed(check, failure))
    except Lost as lost:
        outcome = Outcome(check=check, state="stopped", says=_why(player, lost))
        player.stop()
    except UserError as error:
        if isinstance(error, Unusable):
            raise
        outcome = _unexpected(check, error)
    except Exception as error:
        outcome = _unexpected(check, error)
    if player.output.flooded and outcome.state == "holds":
        outcome = Outcome(check=check, state="stopped", says=f"it printed more than {FLOOD // 2**20} MiB")
    return dataclasses.replace(outcome, printed=player.output.text())


def _plainly(player: Player, outcome: Outcome) -> Outcome:
    """The outcome without objects of the player's, which are gone when it ends: their text stands for them."""
    try:
        return dataclasses.replace(outcome, **{name: _text_of_remotes(getattr(outcome, name)) for name in ("given", "expected", "found")})
    except Lost as lost:
        says = _why(player, lost)
        player.stop()
        return dataclasses.replace(outcome, given=None, expected=None, found=f"an object that cannot be shown: {says}")


def _text_of_remotes(value: Any, depth: int = 4) -> Any:
    if isinstance(value, Remote):
        return str(value)[:SHOWN]
    if isinstance(value, (list, tuple)) and depth:
        shown = [_text_of_remotes(v, depth - 1) for v in value]
        return tuple(shown) if isinstance(value, tuple) else shown
    return {k: _text_of_remotes(v, depth - 1) for k, v in value.items()} if isinstance(value, dict) and depth else value


def _failed(check: Check, failure: CheckFailed) -> Outcome:
    cause = failure.__cause__
    state: State = "wrong"
    if isinstance(cause, NotWritten):
        state = "not written"
    elif getattr(cause, "found_as", "") == "Borrowed":
        state = "borrowed"
    says = str(cause.args[0]) if state == "borrowed" and cause is not None else failure.says
    place = str(getattr(cause, "trace", ""))
    found = failure.found if place or cause is None else _returned(failure.found)
    return Outcome(check=check, state=state, says=says, given=failure.given, expected=failure.expected, found=found, place=place)


def _returned(found: Any) -> Any:
    """In words: the error did not arise in the learner's file, but when the check used what came from there."""
    text = str(found)
    if not text.startswith(("AttributeError: ", "TypeError: ")):
        return found
    return f"{text} (in what your part returned{'; is a return missing?' if 'NoneType' in text else ''})"


def _unexpected(check: Check, error: Exception) -> Outcome:
    """The check met something that it had no words for: an answer of another type, say."""
    if isinstance(error, NotWritten):
        return Outcome(check=check, state="not written", says=str(error))
    if getattr(error, "found_as", "") == "Borrowed":
        return Outcome(check=check, state="borrowed", says=str(error.args[0]))
    here = traceback.extract_tb(error.__traceback__)
    line = next((f.line for f in reversed(here) if f.name.startswith("check_")), "")
    says = f"the check could not go on at «{line}»"
    return Outcome(check=check, state="wrong", says=says, found=_returned(f"{type(error).__name__}: {error}"), place=str(getattr(error, "trace", "")))


def _why(player: Player, lost: Lost) -> str:
    process = player.process
    code = None
    if process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(0.2)
    if player.output.flooded:
        return f"it printed more than {FLOOD // 2**20} MiB"
    if code is None:
        return f"no answer within {CHECK_SECONDS:.0f} seconds" if "time" in str(lost) else str(lost)
    if code < 0:
        return {-9: "the process was killed, probably for its memory", -24: "the process used too much processor time"}.get(
            code, f"the process ended by signal {-code}"
        )
    return f"the process ended by itself (exit code {code}) before it answered"


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module's, not that of something in one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _read(file: Path) -> str:
    if not file.is_file():
        raise DataError("no such file", where=str(file))
    if file.stat().st_size > LARGEST_FILE:
        raise DataError(f"{file.stat().st_size:,} bytes", where=str(file), expected=f"at most {LARGEST_FILE:,} bytes of Python")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8 ({error.reason} at byte {error.start})", where=str(file)) from error


def _environment(folder: str) -> dict[str, str]:
    """What the player may know of ours: how to find programs and libraries, and one thread."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")}
    return {**kept, "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"}


class _Output:
    """What the learner's code prints: the first characters are kept, a flood stops the process."""

    def __init__(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.kept, self.size, self.flooded, self.process = b"", 0, False, process
        self.thread = threading.Thread(target=self._drain, daemon=True)
        if process is not None:
            self.thread.start()

    def _drain(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        while part := os.read(self.process.stdout.fileno(), 65536):
            self.size += len(part)
            self.kept = (self.kept + part)[: PRINTED * 4]
            if self.size > FLOOD and not self.flooded:
                self.flooded = True
                self.process.kill()
        self.process.stdout.close()

    def clear(self) -> None:
        """Forget what was printed."""
        self.kept = b""

    def text(self) -> str:
        """What was printed since."""
        return self.kept.decode("utf-8", "replace")[:PRINTED]

    def join(self) -> None:
        """Wait for the rest."""
        if self.thread.is_alive():
            self.thread.join(2)
