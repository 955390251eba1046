"""``/v1/completions``: text or tokens, continued. Choices are numbered prompt by prompt: the k-th of prompt p is p·n + k."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from underhood.infer.generation import Generation, TokenInfo
from underhood.serve import asking
from underhood.serve.answers import CompletionLogprobs, Head, Usage, joined, require_fine
from underhood.serve.errors import ApiError
from underhood.serve.events import DONE, EventStream, event, framed, unless_gone, written
from underhood.serve.house import House, house_of
from underhood.serve.insight import prompt_logprobs
from underhood.serve.protocol import CompletionRequest

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request, asked: CompletionRequest) -> Response:
    """Continue text."""
    house = house_of(request)
    client = house.client(request)
    if asked.stream:
        return await EventStream.begin(stream(house, asked, client), house.config.send_seconds)
    return Response(await unless_gone(request, whole(house, asked, client)), media_type="application/json")


class Echo:
    """What stands before an answer when the prompt is to be repeated, with its log-probabilities if those are asked for."""

    def __init__(self, text: str, logprobs: dict[str, Any] | None) -> None:
        self.text, self.logprobs = text, logprobs


async def echoes(house: House, asked: CompletionRequest, generations: Sequence[Generation], told: Sequence[CompletionLogprobs], deadline: float) -> list[Echo]:
    """One for each choice."""
    if not asked.echo:
        return [Echo("", None) for _ in told]
    found: list[Echo] = []
    for g in generations:
        infos = None if g.logprobs is None else await prompt_logprobs(house, g.prompt, g.logprobs, deadline)
        found += await asyncio.to_thread(_echoes, house, g, infos, told[len(found) : len(found) + g.n])
    return found


def _echoes(house: House, g: Generation, infos: Sequence[TokenInfo] | None, told: Sequence[CompletionLogprobs]) -> list[Echo]:
    """Those of one prompt."""
    text = house.spoken.decode(g.prompt)
    return [Echo(text, None if infos is None else one.of(infos)) for one in told]


async def whole(house: House, asked: CompletionRequest, client: str) -> str:
    """The answer at once, as JSON; it is written in a thread, for it may be long."""
    with house.admit(asked.model, client) as deadline:
        generations = await house.prepared(lambda: asking.completion(house, asked, client, deadline), deadline)
        count = sum(g.n for g in generations)
        told = [CompletionLogprobs(house.spoken) for _ in range(count)]
        before = await echoes(house, asked, generations, told, deadline)
        texts, finish = [e.text for e in before], [""] * count
        tokens: list[list[TokenInfo]] = [[] for _ in texts]
        usage = Usage(generations)
        async with house.worker.ask(generations) as answer:
            async for number, piece in answer.pieces():
                require_fine(piece)
                usage.add(piece)
                texts[number] += piece.text
                tokens[number] += piece.tokens
                finish[number] = piece.finish or ""

        def body() -> str:
            choices = []
            for i in range(count):
                logprobs = None
                if asked.logprobs is not None:
                    first = before[i].logprobs
                    logprobs = joined([*([] if first is None else [first]), told[i].of(tokens[i])])
                choices.append({"index": i, "text": texts[i], "logprobs": logprobs, "finish_reason": finish[i]})
            return written(Head(house, "text_completion", "cmpl")(choices, usage=usage.fields))

        return await asyncio.to_thread(body)


async def stream(house: House, asked: CompletionRequest, client: str) -> AsyncGenerator[str, None]:
    """The answer in events."""
    with house.admit(asked.model, client) as deadline:
        generations = await house.prepared(lambda: asking.completion(house, asked, client, deadline), deadline)
        told = [CompletionLogprobs(house.spoken) for g in generations for _ in range(g.n)]
        before = await echoes(house, asked, generations, told, deadline)
        head, usage = Head(house, "text_completion", "cmpl"), Usage(generations)
        wanted = bool(asked.stream_options and asked.stream_options.include_usage)
        empty: dict[str, Any] = {"usage": None} if wanted else {}
        async with house.worker.ask(generations) as answer:
            for number, echo in enumerate(before):
                yield framed(await asyncio.to_thread(written, head([_chunk(number, echo.text, echo.logprobs, None)], **empty)))
            try:
                async for number, piece in answer.pieces():
                    require_fine(piece)
                    usage.add(piece)
                    if piece.text or piece.finish or (piece.tokens and asked.logprobs is not None):
                        logprobs = told[number].of(piece.tokens) if asked.logprobs is not None else None
                        yield event(head([_chunk(number, piece.text, logprobs, piece.finish)], **empty))
            except ApiError as error:
                yield event(error.body)
                return
        if wanted:
            yield event(head([], usage=usage.fields))
        yield DONE


def _chunk(number: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}
