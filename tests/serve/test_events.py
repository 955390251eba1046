"""Streams to readers who leave at any moment."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message

from tests.serve.server import Running
from underhood.serve import asking, chat, completions
from underhood.serve.events import JSON, EventStream, written


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


def test_an_answer_is_written_part_by_part_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [{"token": "é\n", "logprob": -0.5, "top_logprobs": [{"token": str(i), "bytes": [1, 2]}] * 20} for i in range(300)]
    choices = [{"index": i, "message": {"content": 'a"b'}, "logprobs": {"content": tokens, "refusal": None}} for i in range(2)]
    answer: dict[str, Any] = {"id": "x", "choices": choices, "usage": {"total_tokens": 600}, "empty": [], "none": {}}
    whole, longest = JSON.encode(answer), 0
    encode = JSON.encode

    def noted(value: Any) -> str:
        nonlocal longest
        longest = max(longest, len(encode(value)))
        return encode(value)

    monkeypatch.setattr(JSON, "encode", noted)
    assert written(answer) == whole
    assert longest < len(whole) / 8


@pytest.mark.parametrize("echo", [False, True])
def test_the_event_loop_writes_no_large_answer(served: Running, monkeypatch: pytest.MonkeyPatch, echo: bool) -> None:
    seen: list[str] = []

    def noted(value: Any) -> str:
        seen.append(threading.current_thread().name)
        return written(value)

    for module in (chat, completions):
        monkeypatch.setattr(module, "written", noted)
    answers = [served.complete(echo=echo, logprobs=1, stream=echo)] + [served.chat(logprobs=True, top_logprobs=1)]
    assert [a.status_code for a in answers] == [200, 200]
    assert len(seen) == 2
    assert all(name.startswith("asyncio") for name in seen)  # the threads beside the loop


def test_what_may_become_too_large_an_answer_is_refused(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MOST_WRITTEN", 100)
    for fine, more in ((served.chat, {"logprobs": True, "top_logprobs": 4}), (served.complete, {"logprobs": 4})):
        assert fine(n=5, max_tokens=4, **more).status_code == 200
        refused = fine(n=5, max_tokens=5, **more)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
        assert "at most 100" in refused.json()["error"]["message"]
    assert served.complete(prompt="ab", echo=True, n=5, max_tokens=3, logprobs=4).status_code == 400
    assert served.complete(prompt=["ab"] * 5, max_tokens=5, logprobs=4).status_code == 400
