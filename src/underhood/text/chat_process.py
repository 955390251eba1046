"""The other end of ``chat_worker``: starts it, asks it, and kills it when it takes too long."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from underhood.base.errors import UserError

SECONDS = 2.0  # of one rendering; an ordinary one takes a millisecond
START_SECONDS = 60.0  # of starting Python on a busy machine
LARGEST = 32 * 2**20  # bytes of one message, either way
KEPT = ("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH")  # of the environment: what Python needs to start, and the time zone for strftime_now
COMMAND = "import sys; sys.path[:] = {path!r}; from underhood.text.chat_worker import main; main({largest})"


class ChatTemplateError(UserError):
    """A chat template that cannot be read or used: damaged, failing, or beyond the limits of time, memory or length."""


class ChatRefused(ChatTemplateError):
    """The template does not take this conversation (roles out of turn, no place for a system message …) and says why."""


class TemplateProcess:
    """A process that renders templates, started at the first request and again after it was killed. Threads may share it; they take turns."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def render(self, source: str, variables: Mapping[str, Any], marks: tuple[str, str] = ("", "")) -> str:
        """The text that the template ``source`` makes of ``variables`` (plain data); ``marks`` enclose what its ``generation`` tags enclose.

        Raises ``ChatRefused`` where the template itself refuses, else ``ChatTemplateError``.
        """
        request = _packed({"source": source, "variables": variables, "marks": marks})
        with self._turn:
            answer = self._ask(request)
            if answer.get("error") == "limit":
                self.close()  # it may hold memory that it will not give back
        if "text" in answer:
            return str(answer["text"])
        kind, says = str(answer.get("error")), str(answer.get("says"))
        if kind == "refused":
            raise ChatRefused(says, where="chat template")
        known = {"syntax": "cannot be read", "limit": "goes beyond its limits", "failed": "fails on this conversation"}
        raise ChatTemplateError(f"{known.get(kind, kind)} ({says})", where="chat template")

    def close(self) -> None:
        """End the process; the next request starts another."""
        self._end()
        self._process = None

    def _ask(self, request: bytes) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        return self._exchange(self._process, request, self.seconds)

    def _start(self) -> "subprocess.Popen[bytes]":
        command = COMMAND.format(path=[os.path.abspath(p) for p in sys.path if p], largest=LARGEST)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen([sys.executable, "-I", "-c", command], env=environment, stdin=pipe, stdout=pipe, stderr=nowhere)
        self._end = weakref.finalize(self, _kill, process)
        self._exchange(process, b"", START_SECONDS)
        return process

    def _exchange(self, process: "subprocess.Popen[bytes]", request: bytes, seconds: float) -> dict[str, Any]:
        """Send ``request`` (nothing: the process speaks first) and wait for the answer; after ``seconds`` the process is killed, which ends the wait."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
            stdin.write(request)
            stdin.flush()
            return cast(dict[str, Any], receive(stdout, LARGEST))
        except (OSError, EOFError, ValueError) as error:
            self.close()
            says = f"takes longer than {seconds:g} s" if late.is_set() else "ended the process that it ran in"
            raise ChatTemplateError(says, where="chat template") from error
        finally:
            timer.cancel()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was never sent cannot be sent any more
            cast(IO[bytes], stream).close()


def receive(stream: IO[bytes], largest: int) -> Any:
    """One message: eight bytes of length, then JSON. Raises ``EOFError`` at the end, ``ValueError`` for what is no message."""
    size = int.from_bytes(head := stream.read(8), "big")
    if len(head) < 8:
        raise EOFError
    if size > largest:
        raise ValueError(f"a message of {size:,} bytes")
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return json.loads(body)


def send(stream: IO[bytes], message: Any) -> None:
    """The counterpart of ``receive``."""
    stream.write(pack(message))
    stream.flush()


def pack(message: Any) -> bytes:
    """``message`` as it is sent."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(8, "big") + body


def _packed(request: Mapping[str, Any]) -> bytes:
    """A packed request. Raises ``ChatTemplateError`` where a person's conversation cannot be one."""
    try:
        packed = pack(request)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatTemplateError(f"no plain data ({error})", where="messages", expected="text, numbers, lists, objects") from None
    if len(packed) > LARGEST:
        raise ChatTemplateError(f"{len(packed):,} bytes", where="messages", expected=f"at most {LARGEST:,}")
    return packed
