"""From a model's folder to a server that stops well: on SIGTERM or Ctrl-C it takes nothing new, finishes what runs, and ends; on a second one it ends."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn

from underhood.base.errors import ConfigError, UserError
from underhood.infer.engine import Compiled, Engine, EngineConfig
from underhood.infer.spoken import Spoken
from underhood.interop.models import end_ids, open_model
from underhood.nn.gpt import GPT
from underhood.serve.app import build_app
from underhood.serve.dialogue import Dialogue
from underhood.serve.house import House, ServeConfig, line_of
from underhood.serve.unpaged import serve_text_by_text
from underhood.text.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
POLL = 0.05  # seconds


def open_house(
    folder: Path,
    config: ServeConfig,
    engine: EngineConfig,
    *,
    name: str = "",
    dtype: str = "float32",
    readable: bool = False,
    compiled: bool = False,
    opened: Callable[[GPT], None] = lambda model: None,
) -> House:
    """Open the model in ``folder`` to serve it, and show it to ``opened`` before anything is done to it.

    ``readable``: with parts that can be replaced; ``compiled``: steps of few tokens in compiled kernels.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"found {dtype!r}", where="dtype", expected=" or ".join(DTYPES))
    changes: dict[str, Any] = {} if readable else {"kernel": "sdpa"}
    model, tokenizer, _ = open_model(folder, readable=readable, dtype=DTYPES[dtype], **changes)
    opened(model)
    kernels = compiled_for(model, dtype) if compiled and not readable else None
    return furnish(model, tokenizer, folder, config, engine, name=name, compiled=kernels)


def furnish(
    model: GPT, tokenizer: Tokenizer, folder: Path, config: ServeConfig, engine: EngineConfig, *, name: str = "", compiled: Compiled | None = None
) -> House:
    """A house around an opened model; ``folder`` may hold its chat template."""
    home = folder.parent if folder.name.startswith("step-") else folder
    dialogue = Dialogue(tokenizer, home, end_ids(home, tokenizer))
    return House(
        Engine(serve_text_by_text(model), Spoken(tokenizer), engine, compiled=compiled), tokenizer, dialogue, name or home.resolve().name or "model", config
    )


def compiled_for(model: GPT, dtype: str) -> Compiled | None:
    """Compiled kernels, where numba is installed and knows the model's parts."""
    try:
        from underhood.kernels.decode import CompiledDecoder

        return CompiledDecoder(model, dtype)  # type: ignore[arg-type]
    except (ImportError, ConfigError):
        return None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``, 0 for a free one. Raises ``UserError`` where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        remedy = "Another program listens there; --port 0 takes a free port." if error.errno == errno.EADDRINUSE else ""
        raise UserError(f"cannot listen there ({error.strerror or error})", where=f"{host}:{port}", remedy=remedy) from None


class Server(uvicorn.Server):
    """uvicorn, but it lets answers finish before it closes its doors, and says 503 meanwhile."""

    def __init__(self, house: House, listening: socket.socket) -> None:
        self.house, self.listening = house, listening
        self.silent: weakref.WeakKeyDictionary[Any, tuple[Any, float]] = (
            weakref.WeakKeyDictionary()
        )  # the last request of each connection, and when it was seen
        settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False, "ws": "none"}
        limits: dict[str, Any] = {"timeout_keep_alive": 15, "timeout_graceful_shutdown": 2}
        super().__init__(uvicorn.Config(build_app(house), lifespan="on", **settings, **limits))
        house.connections = lambda: len(self.server_state.connections)

    def serve_until_stopped(self) -> None:
        """Serve until a signal, or ``should_exit``, ends it."""
        self.run(sockets=[self.listening])

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, for a terminal that closes too. Signals reach only the main thread."""
        with super().capture_signals():
            if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGHUP"):
                yield
                return
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks to stop, the second gives up what runs, the third waits for nothing at all."""
        if self.house.draining:
            self.house.worker.cancel_all()
            self.force_exit = self.should_exit
            self.should_exit = True
        self.house.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        self.drop_silent()
        if self.house.draining and not self.should_exit:
            await self.drain()
        return await super().on_tick(counter)

    def drop_silent(self) -> None:
        """End connections on which nothing has been under way for long: a head that never ends, or a reader who takes nothing, would hold them for ever.

        Where there are many, an address that has many silent ones loses those that are silent longest at once: it would hold the others' places.
        """
        now = time.monotonic()
        lines: defaultdict[str, list[Any]] = defaultdict(list)
        for connection in list(self.server_state.connections):
            cycle: Any = getattr(connection, "cycle", None)
            silent = cycle is None or cycle.response_complete or connection.transport.is_closing()
            known, since = self.silent.get(connection, (None, now))
            self.silent[connection] = (cycle, since if known is cycle and silent else now)
            if silent and now - self.silent[connection][1] > self.house.config.body_seconds:
                connection.transport.abort()
            elif silent:
                peer: Any = getattr(connection, "client", None)
                lines[line_of(peer[0] if peer else "")].append(connection)
        most = self.house.config.connections
        for line in lines.values() if len(self.server_state.connections) > most // 2 else ():
            line.sort(key=lambda connection: self.silent[connection][1])
            for connection in line[: max(0, len(line) - most // 4)]:
                connection.transport.abort()

    async def drain(self) -> None:
        """Let those inside finish, for as long as the grace; then give them up."""
        logging.getLogger("underhood.serve").info("stopping: %d inside", self.house.inside)
        end = asyncio.get_running_loop().time() + self.house.config.grace
        while self.house.inside and not self.should_exit and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL)
        self.house.worker.cancel_all()
        self.should_exit = True
