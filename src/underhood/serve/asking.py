"""A request in the engine's words."""

import dataclasses
import json
import secrets
from collections.abc import Sequence

from underhood.base.rng import stream_seed
from underhood.infer.generation import Generation, Guide
from underhood.infer.grammar_tokens import ANY_JSON, Constraint, TokenTree
from underhood.infer.sample import SampleConfig
from underhood.serve.errors import ApiError
from underhood.serve.house import House, in_time
from underhood.serve.protocol import ChatRequest, CompletionRequest, ResponseFormat, Sampling

LEAST_P = 1e-9  # OpenAI's top_p may be 0, which leaves the likeliest token
GUIDES = 8  # schemas that are kept ready
MOST_WRITTEN = 2**20  # tokens of all choices of a request, with the likeliest beside each; about 100 MB of JSON
COMPLETION_TOKENS = 16  # when a completion does not say, as OpenAI's


def completion(house: House, asked: CompletionRequest, client: str, deadline: float) -> list[Generation]:
    """One generation a prompt. Raises ``ApiError`` and ``UserError``."""
    if asked.max_tokens == 0 and not asked.echo:
        raise ApiError(400, "max_tokens: with 0, only an echo is left; set echo", param="max_tokens", code="invalid_value")
    for text in asked.prompts:
        house.require_short(_bytes(text) if isinstance(text, str) else 0)
    prompts = [house.spoken.encode(p) if isinstance(p, str) else p for p in asked.prompts]
    if len(prompts) * (asked.n or 1) > house.engine_config.max_waiting:
        raise ApiError(400, f"{len(prompts)} prompts with n = {asked.n or 1} are more than wait here", param="n", code="invalid_value")
    wanted = COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    ways = {"client": client, "deadline": deadline, "logprobs": asked.logprobs}
    found = [_generation(house, asked, p, wanted, seed=_seed(asked, number), **ways) for number, p in enumerate(prompts)]  # type: ignore[arg-type]
    require_writable(found, echo=bool(asked.echo))
    return found


async def chat(house: House, asked: ChatRequest, client: str, deadline: float) -> Generation:
    """The answer to a conversation. Raises ``ApiError`` and ``UserError``."""
    generation = await house.prepared(lambda: _unguided(house, asked, client, deadline), deadline)
    guide = await guide_of(house, asked.response_format, deadline)
    if guide is None:
        return generation
    return dataclasses.replace(generation, guide=guide, sample=dataclasses.replace(generation.sample, end_ids=house.dialogue.closing_ids))


def _unguided(house: House, asked: ChatRequest, client: str, deadline: float) -> Generation:
    """The answer, whatever its format."""
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs", param="top_logprobs", code="invalid_value")
    if asked.max_tokens is not None and asked.max_completion_tokens is not None and asked.max_tokens != asked.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens are two names of one limit", param="max_tokens", code="invalid_value")
    if (asked.n or 1) > house.engine_config.max_waiting:
        raise ApiError(400, f"n: more than {house.engine_config.max_waiting} wait here", param="n", code="invalid_value")
    wanted = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    house.require_short(sum(_bytes(message.text) for message in asked.messages))
    prompt = house.dialogue.encode(asked.messages, asked.chat_template_kwargs or {})
    ways = {"seed": _seed(asked), "client": client, "deadline": deadline, "logprobs": logprobs}
    generation = _generation(house, asked, prompt, wanted, stop=house.dialogue.stop, end_ids=house.dialogue.end_ids, **ways)  # type: ignore[arg-type]
    require_writable([generation])
    return generation


def require_writable(generations: Sequence[Generation], echo: bool = False) -> None:
    """Raise ``ApiError`` for what could become a larger answer than one request may have written."""
    most = sum(g.n * (g.sample.max_tokens + echo * len(g.prompt)) * (1 + (g.logprobs or 0)) for g in generations)
    if most > MOST_WRITTEN:
        message = f"up to {most:,} tokens, the likeliest beside each counted, and at most {MOST_WRITTEN:,} are written for one request: "
        raise ApiError(400, message + "ask for fewer in max_tokens, n or logprobs", param="max_tokens", code="invalid_value")


async def guide_of(house: House, wanted: ResponseFormat | None, deadline: float) -> Guide | None:
    """What holds the answer to a format. Raises ``SchemaError`` for a schema that cannot be kept to."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise ApiError(400, "response_format.json_schema: missing", param="response_format.json_schema", code="invalid_value")
    schema = ANY_JSON if wanted.json_schema is None or wanted.type == "json_object" else wanted.json_schema.schema_
    key = json.dumps(schema)
    if key not in house.guides:
        await house.prepared(lambda: TokenTree.of(house.tokenizer), deadline)  # kept, and made where the tokenizer is at home
        made = await in_time(house.grammarian, lambda: Constraint(schema, house.tokenizer, house.dialogue.closing_ids, house.model.config.vocab_size), deadline)
        house.guides[key] = made
        if len(house.guides) > GUIDES:
            house.guides.popitem(last=False)
    house.guides.move_to_end(key)
    return house.guides[key]


def _generation(
    house: House,
    asked: Sampling,
    prompt: Sequence[int],
    wanted: int | None,
    *,
    seed: int,
    client: str,
    deadline: float,
    logprobs: int | None,
    stop: Sequence[str] = (),
    end_ids: Sequence[int] | None = None,
) -> Generation:
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options: only with stream", param="stream_options", code="invalid_value")
    if not prompt:
        raise ApiError(400, "the prompt holds no token", param="prompt", code="invalid_value")
    sample = SampleConfig(
        repetition_penalty=asked.repetition_penalty or 1.0,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=asked.top_k,
        top_p=None if asked.top_p in (None, 1) else max(asked.top_p or 0, LEAST_P),
        min_p=asked.min_p,
        max_tokens=house.require_room(len(prompt), wanted),
        stop=(*asked.stops, *stop),
        end_ids=tuple(house.dialogue.text_ends if end_ids is None else end_ids),
    )
    return Generation(
        prompt=tuple(prompt),
        sample=sample,
        seed=seed,
        n=asked.n or 1,
        logprobs=logprobs,
        logit_bias={int(token): bias for token, bias in (asked.logit_bias or {}).items()},
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        client=client,
        deadline=deadline,
    )


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _seed(asked: Sampling, number: int = 0) -> int:
    """The seed of a prompt by its number; equal prompts of one request have answers of their own."""
    if asked.seed is None:
        return secrets.randbits(63)
    return stream_seed(asked.seed, f"prompt/{number}") if number else asked.seed
