"""Streams to readers who leave at any moment."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from underhood.serve.events import EventStream


@pytest.mark.parametrize("moment", range(8))
def test_a_reader_who_leaves_while_something_is_sent_ends_the_stream(moment: int) -> None:
    """However the two fall together: a cancellation that comes just as the sending is done must not be lost, or the answer would be written for nobody."""

    async def leave() -> None:
        gone, closed = asyncio.Event(), asyncio.Event()

        async def events() -> AsyncGenerator[str, None]:
            try:
                yield "first"
                yield "second"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def send(message: Message) -> None:
            if message.get("body") == b"second":
                gone.set()
                for _ in range(moment):
                    await asyncio.sleep(0)

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with asyncio.timeout(2):
            stream = await EventStream.begin(events(), 5.0)
            await stream({"type": "http"}, receive, send)
        assert closed.is_set()

    asyncio.run(leave())
