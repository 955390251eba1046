"""Answers to readers who may be slow or gone: server-sent events, and work that ends when nobody waits for it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from underhood.serve.errors import ApiError

T = TypeVar("T")
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}
JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
LEVELS = 4  # of an answer's JSON above its lists of tokens
AT_ONCE = 64  # tokens
DONE = "data: [DONE]\n\n"
GONE = 499  # nobody reads this status


def event(value: Any) -> str:
    """One event with ``value`` as JSON."""
    return framed(JSON.encode(value))


def framed(text: str) -> str:
    """One event that holds ``text``."""
    return f"data: {text}\n\n"


def written(value: Any, levels: int = LEVELS) -> str:
    """``value`` as JSON, part by part: for a thread beside the event loop's, since Python's writer lets no other run until it is done."""
    if levels and isinstance(value, dict):
        return "{" + ",".join(f"{JSON.encode(name)}:{written(inner, levels - 1)}" for name, inner in value.items()) + "}"
    if levels and isinstance(value, list):
        return "[" + ",".join(written(inner, levels - 1) for inner in value) + "]"
    if isinstance(value, list):
        return "[" + ",".join(JSON.encode(value[i : i + AT_ONCE])[1:-1] for i in range(0, len(value), AT_ONCE)) + "]"
    return JSON.encode(value)


class EventStream(Response):
    """Sends what ``events`` gives. When the reader leaves, or takes nothing for ``seconds``, ``events`` is closed, and with it what it holds."""

    def __init__(self, first: str, events: AsyncGenerator[str, None], seconds: float) -> None:
        self.first, self.events, self.seconds = first, events, seconds
        super().__init__(headers=HEADERS)

    @classmethod
    async def begin(cls, events: AsyncGenerator[str, None], seconds: float) -> "EventStream":
        """Wait for the first event: an error before it is an error of HTTP, with a status."""
        return cls(await anext(events), events, seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one of the two ends."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_leaves(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            await self.events.aclose()
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError | TimeoutError):
            raise results[0]

    async def _send_all(self, send: Send) -> None:
        headers = [(k.encode(), v.encode()) for k, v in self.headers.items() if k != "content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(send, self.first)
        async for text in self.events:
            await self._send(send, text)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, text: str) -> None:
        async with asyncio.timeout(self.seconds):  # wait_for of Python 3.11 loses a cancellation that comes as the sending ends
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives; when the client leaves first, it is cancelled."""
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_leaves(request.receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)
    if doing.cancelled():
        raise ApiError(GONE, "the client has gone")
    return doing.result()


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
