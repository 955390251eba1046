"""What the handlers share: the model with all that is known of it, the engine's worker, the limits, and who is inside."""

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from underhood import __version__
from underhood.infer.engine import Engine
from underhood.infer.generation import LATE, Guide
from underhood.infer.request import QueueFull
from underhood.infer.sample import context_of
from underhood.infer.spoken import Spoken
from underhood.nn.gpt import GPT
from underhood.serve.dialogue import Dialogue
from underhood.serve.errors import COME_AGAIN, ApiError
from underhood.serve.metrics import Metrics
from underhood.serve.worker import Worker
from underhood.text.tokenizer import Tokenizer

T = TypeVar("T")
CLIENTS = 4096  # lines of the queue at most; who shares one waits together


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What the server lets in, and how long it waits."""

    token: str = ""  # who does not bring it is not let in; empty: everybody is
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")  # names under which it may be called, against DNS rebinding
    any_address: bool = False  # also under any bare IP address, which no rebinding can forge
    deadline: float = 120.0  # seconds until an answer must be complete
    body_bytes: int = 2 * 2**20
    body_seconds: float = 20.0  # to send a request
    send_seconds: float = 30.0  # for a reader to take what was sent
    deepest: int = 100  # levels of a request's JSON
    grace: float = 10.0  # seconds that answers may go on after a request to stop
    inside: int = 512  # requests at once, those that wait included
    connections: int = 1024  # beyond, requests are told to come again; from half of it on, no address keeps more than a quarter of it silent


class House:
    """One served model."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, dialogue: Dialogue, name: str, config: ServeConfig) -> None:
        self.engine_config, self.model, self.tokenizer = engine.config, engine.model, tokenizer
        self.dialogue, self.name, self.config = dialogue, name, config
        self.spoken, self.metrics = Spoken(tokenizer), Metrics()
        self.worker = Worker(engine, self.metrics)
        self.created = int(time.time())
        self.limit = min(context_of(engine.model), engine.pool.n_blocks * engine.pool.size)
        self.fingerprint = fingerprint(engine.model, name)
        self.most_bytes = self.limit * max(len(self.spoken.bytes_of(i)) for i in range(tokenizer.vocab_size))  # of a text that can fit
        self.scribe = ThreadPoolExecutor(1, thread_name_prefix="scribe")  # tokenizers are for one thread at a time
        self.grammarian = ThreadPoolExecutor(1, thread_name_prefix="grammarian")  # makes guides; nobody else's text waits for a schema
        self.scoring = asyncio.Lock()  # one prompt's keys and values at a time stand beside the engine's pages
        self.guides: OrderedDict[str, Guide] = OrderedDict()  # the latest ones, by schema
        self.inside, self.draining = 0, False
        self.connections: Callable[[], int] = lambda: 0  # how many there are; the server says it
        self.inside_of: Counter[str] = Counter()  # by client, of whom there are at most ``CLIENTS``

    @contextlib.contextmanager
    def admit(self, model: str, client: str) -> Iterator[float]:
        """Let a request for ``model`` in and give its deadline. Raises ``ApiError``: 404, 429 or 503.

        Where as many are inside as may be, a client of whom nobody is inside may still come in, as into the engine's queue.
        """
        self.require_model(model)
        if self.draining or self.worker.failed:
            raise ApiError(503, "the server is stopping" if self.draining else "the engine failed", code="unavailable", retry_after=COME_AGAIN)
        if self.inside >= self.config.inside and (self.inside_of[client] or self.inside >= 2 * self.config.inside):
            raise self.too_many()
        self.inside += 1
        self.inside_of[client] += 1
        try:
            yield time.monotonic() + self.config.deadline
        except QueueFull:
            raise self.too_many() from None
        finally:
            self.inside -= 1
            self.inside_of[client] -= 1

    def require_model(self, model: str) -> None:
        """Raise ``ApiError`` (404) for any other model."""
        if model != self.name:
            raise ApiError(404, f"the model {model[:100]!r} is not served here; {self.name!r} is", param="model", code="model_not_found")

    def too_many(self) -> ApiError:
        """As many wait as may."""
        return ApiError(429, "too many requests wait already; try again later", code="queue_full", retry_after=2)

    def client(self, request: Request) -> str:
        """Whose turn it is that a request takes: its peer's, whoever it says that it asks for, or one peer could stand in many lines."""
        return line_of(request.client.host if request.client else "")

    def require_room(self, prompt: int, wanted: int | None) -> int:
        """How many tokens may follow a prompt of so many. Raises ``ApiError`` where they do not fit."""
        if prompt >= self.limit + (wanted == 0):
            message = f"the prompt has {prompt} tokens, and the model's context is {self.limit}"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
        if wanted is not None and prompt + wanted > self.limit:
            message = f"{prompt} tokens of prompt and {wanted} to come are more than the model's context of {self.limit}"
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        return self.limit - prompt if wanted is None else wanted

    def require_short(self, text: int) -> None:
        """Raise ``ApiError`` for a text of so many bytes that it cannot fit, whatever its tokens are: it is not worth encoding."""
        if text > self.most_bytes:
            message = f"the prompt has {text:,} bytes, and the model's context of {self.limit} tokens holds at most {self.most_bytes:,}"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")

    async def prepared(self, work: Callable[[], T], deadline: float) -> T:
        """What ``work`` with the tokenizer makes, in a thread of its own: a long text must not stop the event loop. Raises ``ApiError`` (504)."""
        return await in_time(self.scribe, work, deadline)

    def close(self) -> None:
        """End the threads; what waits for them is dropped."""
        for threads in (self.scribe, self.grammarian):
            threads.shutdown(cancel_futures=True)


def line_of(peer: str) -> str:
    """The line of the queue for an address: one of few, so that nobody can fill memory with them. A host has 2⁶⁴ addresses of IPv6, and one line."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
        peer = str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 and not address.ipv4_mapped else str(address)
    except ValueError:
        pass  # a socket of another kind: all who come by it share a line
    digest = hashlib.blake2b(peer.encode(errors="replace"), digest_size=8).digest()
    return f"{int.from_bytes(digest, 'little') % CLIENTS}"


@contextlib.asynccontextmanager
async def until(deadline: float) -> AsyncIterator[None]:
    """Give up what is waited for in the scope when the deadline passes, with ``ApiError`` (504)."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise ApiError(504, LATE, code="deadline_exceeded") from None


async def in_time(threads: Executor, work: Callable[[], T], deadline: float) -> T:
    """What ``work`` makes in one of ``threads``. Past the deadline ``ApiError`` (504): what had not begun is dropped, what had ends unheard."""
    async with until(deadline):
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def fingerprint(model: GPT, name: str) -> str:
    """Names what makes the tokens: the configuration, a sample of every matrix, and this version."""
    digest = hashlib.blake2b(f"{name}/{model.config}/{__version__}".encode(), digest_size=6)
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:64].float().numpy().tobytes())
    return f"fp_{digest.hexdigest()}"


def house_of(request: Request) -> House:
    """The house that a request came to."""
    house: House = request.app.state.house
    return house
