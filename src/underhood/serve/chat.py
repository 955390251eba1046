"""``/v1/chat/completions``."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from underhood.infer.generation import Piece, TokenInfo
from underhood.serve import asking
from underhood.serve.answers import Head, Usage, chat_logprobs, require_fine
from underhood.serve.errors import ApiError
from underhood.serve.events import DONE, EventStream, event, unless_gone, written
from underhood.serve.house import House, house_of
from underhood.serve.protocol import ChatRequest

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, asked: ChatRequest) -> Response:
    """Answer a conversation."""
    house = house_of(request)
    client = house.client(request)
    if asked.stream:
        return await EventStream.begin(stream(house, asked, client), house.config.send_seconds)
    return Response(await unless_gone(request, whole(house, asked, client)), media_type="application/json")


async def whole(house: House, asked: ChatRequest, client: str) -> str:
    """The answer at once, as JSON; it is written in a thread, for it may be long."""
    with house.admit(asked.model, client) as deadline:
        generation = await asking.chat(house, asked, client, deadline)
        texts, finish = [""] * generation.n, [""] * generation.n
        tokens: list[list[TokenInfo]] = [[] for _ in texts]
        usage = Usage([generation])
        async with house.worker.ask([generation]) as answer:
            async for number, piece in answer.pieces():
                require_fine(piece)
                usage.add(piece)
                texts[number] += piece.text
                tokens[number] += piece.tokens
                finish[number] = piece.finish or ""

        def body() -> str:
            choices = [_choice(house, asked, i, house.dialogue.shown(texts[i]), tokens[i], finish[i]) for i in range(generation.n)]
            return written(Head(house, "chat.completion", "chatcmpl")(choices, usage=usage.fields))

        return await asyncio.to_thread(body)


def _choice(house: House, asked: ChatRequest, number: int, text: str, tokens: list[TokenInfo], finish: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    logprobs = chat_logprobs(house.spoken, tokens) if asked.logprobs else None
    return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": finish}


async def stream(house: House, asked: ChatRequest, client: str) -> AsyncGenerator[str, None]:
    """The answer in events; the first comes when the engine has taken the request."""
    with house.admit(asked.model, client) as deadline:
        generation = await asking.chat(house, asked, client, deadline)
        head, usage = Head(house, "chat.completion.chunk", "chatcmpl"), Usage([generation])
        wanted = bool(asked.stream_options and asked.stream_options.include_usage)
        empty: dict[str, Any] = {"usage": None} if wanted else {}
        async with house.worker.ask([generation]) as answer:
            for number in range(generation.n):
                yield event(head([_delta(number, {"role": "assistant", "content": "", "refusal": None})], **empty))
            begun = [False] * generation.n
            try:
                async for number, piece in answer.pieces():
                    require_fine(piece)
                    usage.add(piece)
                    text = piece.text if begun[number] else house.dialogue.shown(piece.text)
                    begun[number] = begun[number] or bool(piece.text)
                    for chunk in _chunks(house, asked, number, piece, text):
                        yield event(head([chunk], **empty))
            except ApiError as error:
                yield event(error.body)
                return
        if wanted:
            yield event(head([], usage=usage.fields))
        yield DONE


def _chunks(house: House, asked: ChatRequest, number: int, piece: Piece, text: str) -> list[dict[str, Any]]:
    """What a piece says, then how it ends."""
    chunks = []
    if text or (asked.logprobs and piece.tokens):
        logprobs = chat_logprobs(house.spoken, piece.tokens) if asked.logprobs else None
        chunks.append(_delta(number, {"content": text}, logprobs))
    if piece.finish:
        chunks.append({**_delta(number, {}), "finish_reason": piece.finish})
    return chunks


def _delta(number: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}
