"""The engine in a thread of its own: commands come by a queue, what it writes goes to the event loop.

Only this thread touches the engine. Commands are kept in order, so a cancellation never overtakes what it cancels. An answer's pieces wait in its
choices, at most as many as it has tokens, until whoever reads takes them.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar, cast

from underhood.base.errors import UnderhoodError
from underhood.infer.engine import Engine
from underhood.infer.generation import Choice, Generation, Piece
from underhood.serve.metrics import Metrics

log = logging.getLogger("underhood.serve")
T = TypeVar("T")
STOPPING = "the server is stopping"
FAILED = "the engine failed"
STEP_SECONDS = 5.0


class Answer:
    """Generations under way: their choices, numbered through, and what they say as it comes."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = self.loop.create_future()
        self.news = asyncio.Event()
        self.choices: list[Choice] = []

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Each piece with the number of its choice, until all have ended."""
        unfinished = len(self.choices)
        while unfinished:
            await self.news.wait()
            self.news.clear()
            for number, choice in enumerate(self.choices):
                while choice.pieces:
                    piece = choice.pieces.popleft()
                    unfinished -= piece.finish is not None
                    yield number, piece

    def wake(self) -> None:
        """From any thread: there is something to read."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.news.set)


class Worker:
    """Runs ``engine`` until ``stop``. Methods are for the event loop's thread."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.engine, self.metrics = engine, metrics
        self.answers: set[Answer] = set()
        self.failed = False
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Let the thread begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step, which is not waited for longer than ``STEP_SECONDS``; what still runs gets no further tokens."""
        self._commands.put(self._end)
        if self._thread.is_alive():
            self._thread.join(STEP_SECONDS)

    @contextlib.asynccontextmanager
    async def ask(self, generations: Sequence[Generation]) -> AsyncIterator[Answer]:
        """An answer to all ``generations``, or to none; what is not finished at the end of the scope is cancelled.

        Raises what ``Engine.submit`` raises, and ``UnderhoodError`` when the engine has failed.
        """
        answer = Answer()
        self.answers.add(answer)
        self._commands.put(lambda: self._submit(answer, generations))
        try:
            await answer.started
            yield answer
        finally:
            self.answers.discard(answer)
            self._commands.put(lambda: self._cancel(answer))

    async def call(self, work: Callable[[Engine], T]) -> T:
        """What ``work`` makes of the engine between two steps."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._commands.put(lambda: settle(loop, future, lambda: work(self.engine)))
        return await future

    def cancel_all(self, reason: str = STOPPING) -> None:
        """End every answer with an error that says why."""
        for answer in list(self.answers):
            self._commands.put(lambda answer=answer: self._cancel(answer, reason))  # type: ignore[misc]

    # ── in the engine's thread ────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._obey()
                if self._works and not self._stopping:
                    self.metrics.step(self.engine.step())
            except Exception:
                log.exception("a step failed; everything under way ends with an error")
                self._fail()

    @property
    def _works(self) -> bool:
        return self.engine.busy and not self.failed

    def _obey(self) -> None:
        """Do what came since the last step; with nothing else to do, wait for something to come."""
        with contextlib.suppress(queue.Empty):
            if not self._works:
                self._commands.get()()
            for _ in range(self._commands.qsize()):
                self._commands.get_nowait()()

    def _submit(self, answer: Answer, generations: Sequence[Generation]) -> None:
        def enter() -> None:
            if self.failed:
                raise UnderhoodError(FAILED)
            try:
                for asked in generations:
                    answer.choices += self.engine.submit(asked)
            except Exception:
                self._cancel(answer)
                raise
            now = time.monotonic()
            for choice in answer.choices:
                choice.on_piece = self._listener(answer, now)
                for piece in choice.pieces:  # of one that is complete already
                    choice.on_piece(piece)

        settle(answer.loop, answer.started, enter)
        answer.wake()

    def _listener(self, answer: Answer, now: float) -> Callable[[Piece], None]:
        watch = self.metrics.watch(now)

        def on_piece(piece: Piece) -> None:
            watch.piece(piece)
            answer.wake()

        return on_piece

    def _cancel(self, answer: Answer, reason: str = "") -> None:
        for choice in answer.choices:
            if choice.finish is None:
                if reason:
                    choice.end("error", reason)
                self.engine.cancel(choice)
                self.metrics.cancelled += 1

    def _fail(self) -> None:
        """Give up whatever runs; if even that is not possible, the engine is of no use any more."""
        try:
            others = [c for waiting in self.engine.later.values() for c in waiting]
            for choice in [*self.engine.choices.values(), *others]:
                choice.end("error", FAILED)
                self.engine.cancel(choice)
        except Exception:
            log.exception("the engine cannot go on")
            self.failed = True
        for choice in [c for answer in list(self.answers) for c in answer.choices]:  # also those that the engine had let go of
            choice.end("error", FAILED)

    def _end(self) -> None:
        self._stopping = True


def settle(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", make: Callable[[], T]) -> None:
    """From any thread: make a result, and let the event loop put it, or the error, into ``future``. Nothing happens once the loop has ended."""
    try:
        result, caught = make(), None
    except Exception as error:
        result, caught = None, error

    def put() -> None:
        if future.done():
            return
        if caught is not None:
            future.set_exception(caught)
        else:
            future.set_result(cast(T, result))

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(put)
