"""What a language model can be asked besides text: how likely it found each token of a prompt, and where its heads look."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from jaxtyping import Float
from torch import Tensor

from underhood.infer.cache import KVCache
from underhood.infer.engine import Engine
from underhood.infer.generation import NOT_FINITE, TokenInfo
from underhood.nn.attention import Mixed, plain
from underhood.nn.gpt import GPT
from underhood.serve.errors import ApiError
from underhood.serve.house import House, house_of, until
from underhood.serve.protocol import AttentionRequest

router = APIRouter()
PIECE = 64  # tokens of a prompt that are scored between two steps of the engine
LONGEST = 96  # tokens that are looked at
DIGITS = 4  # of a weight


async def prompt_logprobs(house: House, prompt: Sequence[int], top: int, deadline: float) -> list[TokenInfo]:
    """For each token of ``prompt`` its log-probability after those before it, and the ``top`` likeliest there; the first has none before it.

    The prompt is computed in pieces, and between two of them the engine makes a step for everybody else. Raises ``ApiError``.
    """
    found = [TokenInfo(prompt[0])]
    async with until(deadline), house.scoring:
        cache = KVCache(house.model.config.n_layer, len(prompt))
        while len(found) < len(prompt):
            ids = prompt[len(found) - 1 :][: PIECE + 1]
            found += await house.worker.call(lambda engine, ids=ids: score(engine.model, ids, cache, top))  # type: ignore[misc]
    return found


@torch.no_grad()
def score(model: GPT, ids: Sequence[int], cache: KVCache, top: int) -> list[TokenInfo]:
    """The same for all of ``ids`` but the first, which continue what the cache holds."""
    rows = model.logits(model.hidden(torch.tensor([ids[:-1]]), cache)[0]).double().log_softmax(-1)
    if not torch.isfinite(rows).all():
        raise ApiError(500, NOT_FINITE, code="generation_failed")
    best = rows.topk(min(top, rows.shape[-1]))
    pairs = [tuple(zip(i, p, strict=True)) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return [TokenInfo(token, float(row[token]), likely) for row, token, likely in zip(rows, ids[1:], pairs, strict=True)]


@torch.no_grad()
def attention_weights(model: GPT, ids: Sequence[int], layer: int) -> Float[Tensor, "H T T"]:
    """Where each head of a layer looks: row t holds the weights of query t over the keys 0 … t. By the plain kernel, which alone has them."""
    with recorded(model.blocks[layer].attention) as seen:
        model.hidden(torch.tensor([list(ids)]))
    if len(seen) != 1:
        raise ApiError(404, "this model's attention does not hold its weights", code="no_attention")
    return seen[0][0]


@contextlib.contextmanager
def recorded(attention: Any) -> Iterator[list[Tensor]]:
    """For the length of the scope the layer mixes with the plain kernel, and its weights are kept."""
    seen: list[Tensor] = []

    def kernel(*args: Any, **kwargs: Any) -> Mixed:
        mixed, weights = plain(*args, **kwargs)
        assert weights is not None
        seen.append(weights)
        return mixed, weights

    before, attention.kernel = attention.kernel, kernel
    try:
        yield seen
    finally:
        attention.kernel = before


@router.post("/v1/underhood/attention")
async def attention(request: Request, asked: AttentionRequest) -> JSONResponse:
    """The attention maps of one layer over a short text; a longer one is cut."""
    house = house_of(request)
    with house.admit(asked.model, house.client(request)) as deadline:
        ids = await house.prepared(lambda: house.spoken.encode(asked.text), deadline)
        kept = ids[: min(LONGEST, house.limit)]
        require_layer(house, asked.layer)
        weights = await house.worker.call(lambda engine: _maps(engine, kept, asked.layer))
    tokens = [house.spoken.bytes_of(i).decode("utf-8", errors="replace") for i in kept]
    config = house.model.config
    facts = {"object": "underhood.attention", "model": house.name, "layer": asked.layer, "n_layer": config.n_layer, "n_head": config.n_head}
    return JSONResponse({**facts, "tokens": tokens, "cut": len(ids) - len(kept), "weights": weights})


def require_layer(house: House, layer: int) -> None:
    """Raise ``ApiError`` for a layer that the model does not have."""
    if layer >= house.model.config.n_layer:
        raise ApiError(400, f"layer: the model has {house.model.config.n_layer}, numbered from 0", param="layer", code="invalid_value")


def _maps(engine: Engine, ids: Sequence[int], layer: int) -> list[list[list[float]]]:
    """Of each head the lower triangle, row by row."""
    weights = attention_weights(engine.model, ids, layer).float()
    if not torch.isfinite(weights).all():
        raise ApiError(500, "the attention weights are not finite", code="generation_failed")
    rounded = [[[round(w, DIGITS) for w in row[: t + 1]] for t, row in enumerate(head)] for head in weights.tolist()]
    return rounded
