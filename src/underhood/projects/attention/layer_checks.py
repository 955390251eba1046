"""What any correct attention layer satisfies: the second half of stage 4. The oracles are torch's layer and functions with the same weights."""

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, holds
from underhood.lab.oracles import Ends, equals, lower, noise, refused, tried
from underhood.nn.attention import AttentionConfig
from underhood.projects.attention.oracles import HEADS, WIDTH, by_torch, drawn, in_heads, told, torchs, turning, weights_of


def built(part: Part, rng: random.Random, **settings: Any) -> Any:
    """The part's layer in float64 with random weights."""
    layer = tried("the layer can be built", part.MultiHeadAttention, AttentionConfig(width=WIDTH, n_head=HEADS, **settings), given=told(settings)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(noise(rng, *parameter.shape) / 3)
    return layer


def both(layer: Any, x: Tensor, given: Any, **options: Any) -> Tensor:
    """What ``look`` gives, which ``forward`` must give as well."""
    out, _ = tried("look returns (out, weights)", layer.look, x, given=given, **options)
    alike(tried("forward runs", layer, x, given=given, **options), out, "forward gives what look gives", given=given, atol=1e-9)
    found: Tensor = out
    return found


def seeded(layer: Any, x: Tensor, given: str) -> Any:
    """``look`` while training, all dropouts seeded alike."""
    for module in layer.modules():
        if type(module).__name__ == "Dropout":
            module.generator = torch.Generator().manual_seed(1)
    return tried("the layer runs while training", layer.look, x, given=given)


@check(
    "4 · Several heads",
    hints=(
        "Each part may be right and the order wrong. Follow the shapes: (B T C) → (B H T D) → (B H T D) → (B T C).",
        "Project first, split each of q, k and v into heads, attend with the mask, merge, and only then project back.",
        "`self.output(merge_heads(attend(q, k, v, mask)[0]))`; every `Linear` gets `bias=config.bias`, and `causal` and `fused_qkv` are settings too.",
    ),
)
def check_layer_equals_torch(part: Part, rng: random.Random) -> None:
    for settings in ({}, {"causal": False}, {"fused_qkv": False}, {"bias": False}):
        layer, x, given = built(part, rng, **settings), noise(rng, 2, 5, WIDTH).requires_grad_(), told(settings)
        blocked = None if settings.get("causal") is False else ~lower(5)
        expected, maps = torchs(layer, settings)(x, x, x, attn_mask=blocked, average_attn_weights=False)
        out, weights = tried("look returns (out, weights)", layer.look, x, given=given)
        alike(out, expected, "the layer's output equals torch's MultiheadAttention", given=given, atol=1e-9)
        alike(weights, maps, "so do the weights of each head", given=given, atol=1e-9)
        alike(tried("forward runs", layer, x, given=given), expected, "forward gives what look gives", given=given, atol=1e-9)
        upstream = noise(rng, *expected.shape)
        mine, theirs = (torch.autograd.grad(y, x, upstream, retain_graph=True)[0] for y in (out, expected))
        alike(mine, theirs, "the gradient at the input equals torch's", given=given, atol=1e-9)


@check(
    "4 · Several heads",
    hints=(
        "Change the last positions of the input: nothing before them may move. If something does, which step mixes positions?",
        "Only the weights may carry anything from one position to another, and they are masked. Look at the reshapes.",
        "Cut heads with `view(B, T, H, D).transpose(1, 2)`, join them with `transpose(1, 2).reshape(B, T, C)`, and pass the mask to attend.",
    ),
)
def check_layer_never_sees_the_future(part: Part, rng: random.Random) -> None:
    layer, x = built(part, rng), noise(rng, 2, 8, WIDTH)
    out = tried("the layer runs", layer, x)
    for t in (1, 5, 7):
        changed = x.clone()
        changed[:, t:] += 1
        says = f"outputs before position {t} stay when inputs from {t} on change"
        alike(layer(changed)[:, :t], out[:, :t], says, given=f"8 positions, {told({})}", atol=1e-12)


@check(
    "4 · Several heads",
    hints=(
        "The caller hides the padding, and the layer hides the future. What may a query see when both speak?",
        "It may look where both allow it. The causal mask is (T S), the caller's broadcasts to (B H T S).",
        "`past = causal_mask(T, S, device=q.device)`, then `mask = past if mask is None else past & mask`, where `config.causal`.",
    ),
)
@torch.no_grad()
def check_layer_joins_masks(part: Part, rng: random.Random) -> None:
    real = torch.tensor([[True, True, False, True, True], [True, False, True, True, False]])
    x = noise(rng, 2, 5, WIDTH)
    for settings in ({}, {"causal": False}):
        layer, given = built(part, rng, **settings), f"{told(settings)}; padding {drawn(real)} (1: real), given as (B 1 1 S)"
        theirs, past = torchs(layer, settings), None if settings else ~lower(5)
        found = both(layer, x, given, mask=real[:, None, None])
        holds(not equals(found, theirs(x, x, x, attn_mask=past)[0]), "the layer ignores the mask of its caller", given=given)
        if past is not None:
            alone = theirs(x, x, x, key_padding_mask=~real)[0]
            holds(not equals(found, alone), "with a mask of the caller's, the layer forgets that it is causal", given=given)
        expected, _ = theirs(x, x, x, attn_mask=past, key_padding_mask=~real)
        alike(found, expected, "a query may look where the caller's mask and the layer's own both allow it", given=given, atol=1e-9)


@check(
    "4 · Several heads",
    hints=(
        "When looking at another sequence, who asks and who answers?",
        "Queries come from x; keys *and* values come from the context.",
        "`source = x if context is None else context`, then `self.query(x), self.key(source), self.value(source)`; fused, a context is a `ConfigError`.",
    ),
)
@torch.no_grad()
def check_layer_looks_across(part: Part, rng: random.Random) -> None:
    settings = {"causal": False, "fused_qkv": False}
    layer, theirs = built(part, rng, **settings), None
    for S in (5, 3):
        x, context = noise(rng, 2, 5, WIDTH), noise(rng, 2, S, WIDTH)
        real = torch.tensor([[True, True, False, True, True], [True, True, True, False, False]])[:, :S]
        given = f"5 queries, a context of {S}, {told(settings)}; padding {drawn(real)} (1: real), given as (B 1 1 S)"
        theirs = theirs or torchs(layer, settings)
        expected, _ = theirs(x, context, context, key_padding_mask=~real)
        found = both(layer, x, given, context=context, mask=real[:, None, None])
        alike(found, expected, "looking at another sequence equals torch's", given=given, atol=1e-9)
    fused, says = built(part, rng, causal=False), "one matrix for q, k and v cannot look at another sequence: a context must be an error"
    refused(lambda: fused(x, context=context), ConfigError, says, given=told({"causal": False, "fused_qkv": True}))


@check(
    "4 · Several heads",
    hints=(
        "With a cache the layer gets only the new positions. Where are the keys and values of the old ones?",
        "`cache.extend(k, v)` keeps the new ones and hands back all so far: attend to those.",
        "`if cache is not None: k, v = cache.extend(k, v)`, before the mask is made: there are now more keys than queries.",
    ),
)
@torch.no_grad()
def check_layer_goes_on_from_a_cache(part: Part, rng: random.Random) -> None:
    layer, x, given = built(part, rng), noise(rng, 2, 6, WIDTH), f"pieces of 3, 1 and 2 positions, {told({})}"
    for name, call in (("forward", layer), ("look", lambda piece, cache: layer.look(piece, cache=cache)[0])):
        cache = Ends()
        pieces = [tried(f"{name} takes a cache", call, piece, cache=cache, given=given) for piece in torch.split(x, [3, 1, 2], dim=1)]
        alike(torch.cat(pieces, dim=1), layer(x), f"{name}, piece by piece with a cache, gives what all at once gives", given=given, atol=1e-9)


@check(
    "4 · Several heads",
    hints=(
        "`rotate` is how positions get into the scores (project 7). What are scores made of, and what are they not made of?",
        "Turn queries and keys, not values. In a cache lie keys that have been turned, each by its own position: turn the new ones before they go in.",
        "After splitting into heads: `if rotate is not None: q, k = rotate(q), rotate(k)`, and only then `k, v = cache.extend(k, v)`.",
    ),
)
@torch.no_grad()
def check_layer_turns_queries_and_keys(part: Part, rng: random.Random) -> None:
    layer, x, turn, given = built(part, rng), noise(rng, 2, 6, WIDTH), turning(0), f"6 positions, {told({})}, rotate by the position"
    expected = by_torch(layer, x, lambda q, k, v: (turn(q), turn(k), v))
    found = both(layer, x, given, rotate=turn)
    holds(not equals(found, by_torch(layer, x, lambda q, k, v: (q, k, v))), "the layer ignores rotate", given=given)
    holds(not equals(found, by_torch(layer, x, lambda q, k, v: (turn(q), turn(k), turn(v)))), "the values must not be turned", given=given)
    alike(found, expected, "rotate turns the queries and keys of each head", given=given, atol=1e-9)
    cache, given = Ends(), f"pieces of 3, 1 and 2 positions, {told({})}, rotate by the position"
    pieces = [tried("the layer takes a cache and rotate", layer, x[:, a:b], cache=cache, rotate=turning(a), given=given) for a, b in ((0, 3), (3, 4), (4, 6))]
    says = "with a cache, only the new queries and keys are turned, before they go into it: what lies there was turned when it came"
    alike(torch.cat(pieces, dim=1), expected, says, given=given, atol=1e-9)


@check(
    "4 · Several heads",
    hints=(
        "One of the settings bounds the scores, whatever the weights. Does your layer ask for it?",
        "With `qk_norm` the query and the key of each head are divided by their root mean square. Values keep their size.",
        "After splitting into heads: `if self.config.qk_norm: q, k = rms_norm(q), rms_norm(k)`.",
    ),
)
@torch.no_grad()
def check_layer_norms_queries_and_keys(part: Part, rng: random.Random) -> None:
    layer, x, given = built(part, rng, qk_norm=True), noise(rng, 2, 6, WIDTH), f"6 positions, {told({'qk_norm': True})}"
    found = both(layer, x, given)
    holds(not equals(found, by_torch(layer, x, lambda q, k, v: (q, k, v))), "the layer ignores qk_norm", given=given)
    expected = by_torch(layer, x, lambda q, k, v: (F.rms_norm(q, q.shape[-1:], eps=1e-5), F.rms_norm(k, k.shape[-1:], eps=1e-5), v))
    alike(found, expected, "queries and keys are normalised head by head, and values are not", given=given, atol=1e-9)


@check(
    "4 · Several heads",
    hints=(
        "What is dropped while training: numbers of the output, or the looks of a head at a position?",
        "Dropout acts on the weights, inside attend. It is a layer of its own, made once, so that its draws can be seeded.",
        "In `__init__`: `self.dropout = Dropout(config.dropout)`; then `attend(q, k, v, mask, self.dropout)`.",
    ),
)
@torch.no_grad()
def check_layer_drops_weights(part: Part, rng: random.Random) -> None:
    layer, x = built(part, rng, dropout=0.5), noise(rng, 40, 1, WIDTH)
    state, given = weights_of(layer, {}), f"40 sequences of 1 position, {told({'dropout': 0.5})}"
    state["output.weight"].copy_(torch.eye(WIDTH, dtype=torch.float64))
    state["output.bias"].zero_()
    value = F.linear(x, state["qkv.weight"], state["qkv.bias"])[..., 2 * WIDTH :]
    layer.eval()
    alike(tried("the layer runs", layer, x, given=given), value, "without dropout, a position that sees itself alone gives its own value", given=given)
    layer.train()
    (out, weights), (again, _) = (seeded(layer, x, given) for _ in range(2))
    alike(weights, torch.ones(40, HEADS, 1, 1), "the weights that look returns are those before dropout", given=given)
    heads, whole = in_heads(out), in_heads(value)
    gone = (heads == 0).all(-1, keepdim=True)
    holds(bool(gone.any()), "while training, no weight was dropped", given=given)
    alike(heads, torch.where(gone, 0.0, 2 * whole), "a weight is dropped, and so the whole look of a head, or it is doubled", given=given)
    alike(again, out, "the same seed drops other weights: use the Dropout of underhood.nn.dropout", given=given)


LAYER_CHECKS: tuple[Check, ...] = (
    check_layer_equals_torch,
    check_layer_never_sees_the_future,
    check_layer_joins_masks,
    check_layer_looks_across,
    check_layer_goes_on_from_a_cache,
    check_layer_turns_queries_and_keys,
    check_layer_norms_queries_and_keys,
    check_layer_drops_weights,
)
