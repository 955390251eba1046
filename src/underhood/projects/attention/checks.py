"""What any correct attention satisfies, stage by stage. The oracles are torch's own attention, closed forms and numbers worked by hand."""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.base.errors import ShapeError
from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs
from underhood.nn.attention import AttentionConfig

WIDTH, HEADS = 12, 3


def noise(rng: random.Random, *shape: int) -> Tensor:
    """Float64 numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)), dtype=torch.float64)


def lower(T: int, S: int | None = None) -> Tensor:
    """The causal mask, from torch's own triangle."""
    S = S or T
    return ~torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)


def tried(says: str, function: Callable[..., Any], *args: Any, given: Any = None, **options: Any) -> Any:
    """``function(*args, **options)``; an exception in it is a failed check."""
    return runs(lambda: function(*args, **options), says, given=given)


def built(part: Part, rng: random.Random, **options: Any) -> Any:
    """The part's layer in float64 with random weights."""
    config = AttentionConfig(width=WIDTH, n_head=HEADS, **options)
    layer = tried("the layer can be built", part.MultiHeadAttention, config, given=config).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(noise(rng, *parameter.shape) / 3)
    return layer


def torchs(layer: Any) -> torch.nn.MultiheadAttention:
    """torch's layer with the same weights."""
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    state = dict(layer.named_parameters())
    names = ["qkv"] if "qkv.weight" in state else ["query", "key", "value"]
    for kind in ("weight", "bias"):
        missing = [n for n in (*names, "output") if f"{n}.{kind}" not in state]
        equal(missing, [], f"the layer's linear layers are called qkv (or query, key and value) and output; without a {kind}")
        getattr(theirs, f"in_proj_{kind}").data = torch.cat([state[f"{n}.{kind}"].data for n in names])
        getattr(theirs.out_proj, kind).data = state[f"output.{kind}"].data
    return theirs


# ── stage 1 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · Average the past",
    hints=(
        "Position 0 sees only itself; position 2 is the mean of three vectors. What do the weights of row 2 look like?",
        "A lower triangle of ones, each row divided by its sum, is a matrix that averages. Multiply it by x.",
        "`weights = causal_mask(T).to(x.dtype)`, `weights = weights / weights.sum(-1, keepdim=True)`, then `weights @ x`.",
    ),
)
def check_past_is_averaged(part: Part, rng: random.Random) -> None:
    given = [[3.0], [5.0], [1.0]]
    found = tried("average_past runs on three positions", part.average_past, torch.tensor(given), given=given)
    close(found, [[3.0], [4.0], [3.0]], "each position becomes the mean of itself and all before it", given=given)
    x = noise(rng, 2, 7, 3)
    expected = x.cumsum(1) / torch.arange(1, 8).reshape(1, 7, 1)
    close(tried("average_past runs on a batch", part.average_past, x), expected, "a batch is averaged sequence by sequence")


# ── stage 2 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "2 · Scaled dot product",
    hints=(
        "A row of weights says how one query divides its attention. What must it add up to?",
        "softmax turns scores into positive numbers that sum to 1 along one axis. Along which: the queries or the keys?",
        "`weights = scores.softmax(dim=-1)`: the last axis runs over the keys.",
    ),
)
def check_rows_are_distributions(part: Part, rng: random.Random) -> None:
    for T, S, mask in ((4, 6, None), (5, 5, lower(5))):
        q, k, v = noise(rng, 2, T, 8), noise(rng, 2, S, 8), noise(rng, 2, S, 8)
        _, weights = tried("attend returns (out, weights)", part.attend, q, k, v, mask)
        holds(bool((weights >= 0).all()), "no weight is negative", found=weights[0])
        close(weights.sum(-1), torch.ones(2, T), "the weights of each query sum to 1 over the keys")


@check(
    "2 · Scaled dot product",
    hints=(
        "A dot product of d independent numbers of variance 1 has variance d. What does that do to softmax when d is large?",
        "Divide the scores by their standard deviation, so that they look the same for every width.",
        "`scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])`.",
    ),
)
def check_scores_are_scaled(part: Part, rng: random.Random) -> None:
    for d in (1, 4, 64):
        q, k = torch.zeros(1, d), torch.zeros(2, d)
        q[0, 0], k[0, 0] = math.sqrt(d) * math.log(3), 1.0
        _, weights = tried("attend runs on one query and two keys", part.attend, q, k, torch.ones(2, 1))
        says = f"at width {d} the products √d·ln 3 and 0 become ln 3 and 0 after scaling, and so weights 3/4 and 1/4"
        close(weights, [[0.75, 0.25]], says, given={"q": q, "k": k})


@check(
    "2 · Scaled dot product",
    hints=(
        "Queries and keys decide where to look. What is it that one sees there?",
        "The output is a weighted mean of the *values*: it lies between the smallest and the largest of them.",
        "`out = weights @ v`.",
    ),
)
def check_values_are_mixed(part: Part, rng: random.Random) -> None:
    q, k, v = noise(rng, 3, 4), noise(rng, 5, 4), noise(rng, 5, 4)
    out, weights = tried("attend returns (out, weights)", part.attend, q, k, v)
    close(out, weights.detach() @ v, "each output is the mean of the values under the returned weights", given={"v": v, "weights": weights})


@check(
    "2 · Scaled dot product",
    hints=(
        "The numbers differ from torch's. Take one query and two keys and follow them through by hand: product, scale, softmax, mixture.",
        "Look at each step's axis: k is transposed in its last two axes only, softmax runs over the last.",
        "softmax(q kᵀ / √d) v, in four lines; print each and compare with `torch.nn.functional.scaled_dot_product_attention`.",
    ),
)
def check_attend_equals_torch(part: Part, rng: random.Random) -> None:
    for T, S, d in ((5, 5, 4), (1, 3, 8), (4, 7, 1)):
        q, k, v = (noise(rng, 2, HEADS, n, d).requires_grad_() for n in (T, S, S))
        out, _ = tried("attend runs on a batch with heads", part.attend, q, k, v, given=f"{T} queries, {S} keys, width {d}")
        expected = F.scaled_dot_product_attention(q, k, v)
        close(out, expected, "the output equals torch's", given=f"{T} queries, {S} keys, width {d}", atol=1e-9)
        upstream = noise(rng, *expected.shape)
        theirs = torch.autograd.grad(expected, (q, k, v), upstream)
        mine = tried("the gradient reaches q, k and v", torch.autograd.grad, out, (q, k, v), upstream)
        for name, a, b in zip("qkv", mine, theirs, strict=True):
            close(a, b, f"the gradient at {name} equals torch's", atol=1e-9)


# ── stage 3 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · The causal mask",
    hints=(
        "Write the mask for three positions on paper: who may look at whom? The diagonal is the question of looking at oneself.",
        "True on and below the diagonal. With more keys than queries the diagonal moves: the last query sits at the last key.",
        "`torch.ones(T, S, dtype=torch.bool).tril(S - T)`.",
    ),
)
def check_mask_is_a_triangle(part: Part, rng: random.Random) -> None:
    for T, S in ((1, 1), (3, 3), (2, 5), (1, 4)):
        found = tried("causal_mask gives a mask", part.causal_mask, T, S, given=f"{T} queries, {S} keys")
        equal(found.dtype, torch.bool, "the mask is boolean")
        equal(found.tolist(), lower(T, S).tolist(), "query t sees key s exactly when s is not later", given=f"{T} queries, {S} keys")
    equal(tried("S may be left out", part.causal_mask, 4).tolist(), lower(4).tolist(), "without S there are as many keys as queries")


@check(
    "3 · The causal mask",
    hints=(
        "Change a key and a value that a query may not see: its output moves. How did they reach it?",
        "Setting weights to 0 after softmax is too late: the hidden scores are already in the denominator.",
        "Put -inf into the scores *before* softmax: e^(-inf) is exactly 0 in numerator and denominator.",
    ),
)
def check_hidden_keys_do_not_matter(part: Part, rng: random.Random) -> None:
    q, k, v = (noise(rng, 6, 4) for _ in range(3))
    out, weights = tried("attend takes a mask", part.attend, q, k, v, lower(6))
    holds(bool((weights[~lower(6)] == 0).all()), "what the mask hides has weight exactly 0", found=weights)
    other_k, other_v = k.clone(), v.clone()
    other_k[4:], other_v[4:] = 30 * other_k[4:] + 1, 100.0
    moved, _ = part.attend(q, other_k, other_v, lower(6))
    close(moved[:4], out[:4], "queries 0 to 3 do not notice that keys and values 4 and 5 changed", given="a causal mask over 6 positions")
    holds(not torch.allclose(moved[4:], out[4:]), "queries 4 and 5 do notice")


@check(
    "3 · The causal mask",
    hints=(
        "What is softmax over a row of nothing but -inf? Try it.",
        "0/0 is NaN, and one NaN spoils every weight it reaches. Better to stop there and say which row it was.",
        "In `hide`, before filling: `nothing = ~mask.any(-1)`; if `nothing.any()`, raise `ShapeError` naming the first such row (`require_visible` does it).",
    ),
)
def check_an_empty_row_is_an_error(part: Part, rng: random.Random) -> None:
    mask = lower(4)
    mask[2] = False
    refuses(lambda: part.hide(torch.zeros(4, 4), mask), ShapeError, "a query that may look nowhere is an error, never NaN", given=mask)
    scores = noise(rng, 4, 4)
    hidden = tried("hide runs on a mask that leaves every row something", part.hide, scores, lower(4))
    close(hidden, scores.masked_fill(~lower(4), -math.inf), "hide puts -inf where the mask is False and leaves the rest", given=scores)
    holds(part.hide(scores, None) is scores or torch.equal(part.hide(scores, None), scores), "without a mask nothing is hidden")


# ── stage 4 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · Several heads",
    hints=(
        "Two positions of width 4 and two heads: write down which numbers head 0 gets from position 0, and from position 1.",
        "Cutting an axis in two keeps the order of the numbers in memory: first (B T H D), and only then may T and H change places.",
        "`x.view(B, T, n_head, C // n_head).transpose(1, 2)`.",
    ),
)
def check_heads_are_slices(part: Part, rng: random.Random) -> None:
    x = torch.arange(8.0).reshape(1, 2, 4)
    found = tried("split_heads runs", part.split_heads, x, 2, given=x)
    equal(found.tolist(), [[[[0, 1], [4, 5]], [[2, 3], [6, 7]]]], "head h holds columns hD to (h+1)D of every position", given=x)
    strided = noise(rng, 2, 5, 3 * WIDTH).chunk(3, dim=-1)[1]
    heads = tried("split_heads takes one third of a wider tensor, as it comes from qkv", part.split_heads, strided, HEADS)
    close(heads[:, 1], strided[..., WIDTH // HEADS : 2 * WIDTH // HEADS], "the same for a slice of a wider tensor")


@check(
    "4 · Several heads",
    hints=(
        "Split, then merge: you should hold what you began with.",
        "(B H T D) cannot be flattened as it lies: the heads of one position are far apart in memory.",
        "`x.transpose(1, 2).reshape(B, T, H * D)`.",
    ),
)
def check_heads_rejoin(part: Part, rng: random.Random) -> None:
    heads = torch.tensor([[[[0.0, 1], [4, 5]], [[2, 3], [6, 7]]]])
    found = tried("merge_heads runs", part.merge_heads, heads, given=heads)
    close(found, [[[0, 1, 2, 3], [4, 5, 6, 7]]], "the heads of one position lie side by side again", given=heads)


@check(
    "4 · Several heads",
    hints=(
        "Each part may be right and the order wrong. Follow the shapes: (B T C) → (B H T D) → (B H T D) → (B T C).",
        "Project first, split each of q, k and v into heads, attend with the mask, merge, and only then project back.",
        "`self.output(merge_heads(attend(q, k, v, mask)[0]))`; without `output` the heads never learn of each other.",
    ),
)
def check_layer_equals_torch(part: Part, rng: random.Random) -> None:
    for options in ({}, {"causal": False}, {"fused_qkv": False}):
        layer, x = built(part, rng, **options), noise(rng, 2, 5, WIDTH).requires_grad_()
        given = ", ".join(f"{k}={v}" for k, v in options.items()) or "causal, fused"
        blocked = None if options.get("causal") is False else ~lower(5)
        expected, maps = torchs(layer)(x, x, x, attn_mask=blocked, average_attn_weights=False)
        out, weights = tried("look returns (out, weights)", layer.look, x, given=given)
        close(out, expected, "the layer's output equals torch's MultiheadAttention", given=given, atol=1e-9)
        close(weights, maps, "so do the weights of each head", given=given, atol=1e-9)
        close(tried("forward runs", layer, x, given=given), expected, "forward gives what look gives", given=given, atol=1e-9)
        upstream = noise(rng, *expected.shape)
        mine, theirs = (torch.autograd.grad(y, x, upstream, retain_graph=True)[0] for y in (out, expected))
        close(mine, theirs, "the gradient at the input equals torch's", given=given, atol=1e-9)


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
        close(layer(changed)[:, :t], out[:, :t], f"outputs before position {t} stay when inputs from {t} on change", atol=1e-12)


@check(
    "4 · Several heads",
    hints=(
        "When looking at another sequence, who asks and who answers?",
        "Queries come from x; keys *and* values come from the context.",
        "`source = x if context is None else context`, then `self.query(x), self.key(source), self.value(source)`.",
    ),
)
def check_layer_looks_across(part: Part, rng: random.Random) -> None:
    layer = built(part, rng, causal=False, fused_qkv=False)
    x, context = noise(rng, 2, 5, WIDTH), noise(rng, 2, 5, WIDTH)
    real = torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected, _ = torchs(layer)(x, context, context, key_padding_mask=~real)
    found = tried("the layer takes a context and a mask of its padding", layer, x, context=context, mask=real[:, None, None])
    close(found, expected, "looking at another sequence equals torch's", atol=1e-9)


class Ends:
    """The simplest cache: keys and values laid end to end."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All so far."""
        self.keys.append(k)
        self.values.append(v)
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)


@check(
    "4 · Several heads",
    hints=(
        "With a cache the layer gets only the new positions. Where are the keys and values of the old ones?",
        "`cache.extend(k, v)` keeps the new ones and hands back all so far: attend to those.",
        "`if cache is not None: k, v = cache.extend(k, v)`, before the mask is made: there are now more keys than queries.",
    ),
)
def check_layer_goes_on_from_a_cache(part: Part, rng: random.Random) -> None:
    layer, x, cache = built(part, rng), noise(rng, 2, 6, WIDTH), Ends()
    pieces = [tried("the layer takes a cache", layer, p, cache=cache) for p in torch.split(x, [3, 1, 2], dim=1)]
    close(torch.cat(pieces, dim=1), layer(x), "piece by piece with a cache gives what all at once gives", atol=1e-9)


CHECKS: tuple[Check, ...] = (
    check_past_is_averaged,
    check_rows_are_distributions,
    check_scores_are_scaled,
    check_values_are_mixed,
    check_attend_equals_torch,
    check_mask_is_a_triangle,
    check_hidden_keys_do_not_matter,
    check_an_empty_row_is_an_error,
    check_heads_are_slices,
    check_heads_rejoin,
    check_layer_equals_torch,
    check_layer_never_sees_the_future,
    check_layer_looks_across,
    check_layer_goes_on_from_a_cache,
)
