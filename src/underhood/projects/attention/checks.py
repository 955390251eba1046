"""What any correct attention satisfies, stage by stage. The oracles are torch's own attention, closed forms and numbers worked by hand."""

import math
import random

import torch

from underhood.base.errors import ShapeError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, close, equal, holds
from underhood.lab.oracles import equals, lower, noise, refused, tried
from underhood.projects.attention.layer_checks import LAYER_CHECKS
from underhood.projects.attention.oracles import HEADS, WIDTH, drawn, equals_torchs

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
    three = [[3.0], [5.0], [1.0]]
    found = tried("average_past runs on three positions", part.average_past, torch.tensor(three), given=three)
    close(found, [[3.0], [4.0], [3.0]], "each position becomes the mean of itself and all before it", given=three)
    x = noise(rng, 2, 7, 3)
    expected = x.cumsum(1) / torch.arange(1, 8).reshape(1, 7, 1)
    given = "2 sequences of 7 positions of width 3, float64"
    alike(tried("average_past runs on a batch", part.average_past, x, given=given), expected, "a batch is averaged sequence by sequence", given=given)


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
    for T, S in ((4, 6), (5, 5)):
        q, k, v = noise(rng, 2, T, 8), noise(rng, 2, S, 8), noise(rng, 2, S, 8)
        given = f"{T} queries, {S} keys, no mask"
        _, weights = tried("attend returns (out, weights)", part.attend, q, k, v, given=given)
        alike(weights.clamp(max=0), torch.zeros(2, T, S), "no weight is negative", given=given)
        alike(weights.sum(-1), torch.ones(2, T), "the weights of each query sum to 1 over the keys", given=given)


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
        close(weights, [[0.75, 0.25]], says, given={"q": q, "k": k} if d < 64 else "q = (8 ln 3, 0, 0, …), k = (1, 0, 0, …) and (0, 0, 0, …)")


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
    says = "each output is the mean of the values under the returned weights"
    alike(out, weights.detach() @ v, says, given="3 queries and 5 keys of width 4, no mask")


@check(
    "2 · Scaled dot product",
    hints=(
        "The numbers differ from torch's. Take one query and two keys and follow them through by hand: product, scale, softmax, mixture.",
        "Look at each step's axis: k is transposed in its last two axes only, softmax runs over the last.",
        "softmax(q kᵀ / √d) v, in four lines; print each and compare with `torch.nn.functional.scaled_dot_product_attention`.",
    ),
)
def check_attend_equals_torch(part: Part, rng: random.Random) -> None:
    for T, S, D, E in ((5, 5, 4, 4), (1, 3, 8, 8), (4, 7, 1, 3)):
        q, k, v = (noise(rng, 2, HEADS, *shape).requires_grad_() for shape in ((T, D), (S, D), (S, E)))
        given = f"{T} queries and {S} keys of width {D}, values of width {E}, 3 heads, no mask"
        out, _ = tried("attend runs on a batch with heads", part.attend, q, k, v, given=given)
        equals_torchs(out, (q, k, v), None, rng, given)


@check(
    "2 · Scaled dot product",
    hints=(
        "While training, some weights are dropped at random. Which of the two things that attend returns should know of it?",
        "Dropout acts on the weights that mix the values. What is returned are the weights before it, so that their rows still sum to 1.",
        "`kept = weights if dropout is None else dropout(weights)`, then `return kept @ v, weights`.",
    ),
)
def check_dropout_acts_on_the_weights(part: Part, rng: random.Random) -> None:
    q, k, v, keep = noise(rng, 4, 8), noise(rng, 5, 8), noise(rng, 5, 8), (noise(rng, 4, 5) > 0) * 2.0
    given = "4 queries, 5 keys, and a dropout that sets half of the weights to 0 and doubles the others"
    out, weights = tried("attend takes a dropout", part.attend, q, k, v, None, lambda w: w * keep, given=given)
    soft = (q @ k.T / math.sqrt(8)).softmax(-1)
    alike(weights, soft, "the returned weights are those before dropout", given=given)
    holds(not equals(out, soft @ v), "attend ignores its dropout", given=given)
    alike(out, (soft * keep) @ v, "the weights after dropout mix the values", given=given)


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
    on_cpu = tried("causal_mask takes a device", part.causal_mask, 2, device="cpu")
    equal(on_cpu.tolist(), lower(2).tolist(), "a mask for a device is the same mask")


@check(
    "3 · The causal mask",
    hints=(
        "Softmax follows. Which score gives a weight of exactly 0?",
        "-inf where the mask is False; every other score as it was. True means: may look.",
        "`return scores.masked_fill(~mask, -math.inf)`, and `scores` itself when the mask is None; `masked_fill_` would write into the caller's.",
    ),
)
def check_hidden_scores_are_minus_infinity(part: Part, rng: random.Random) -> None:
    scores, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [True, True]])
    before = scores.clone()
    given = f"scores {before.tolist()}, {drawn(mask)} (1: may look)"
    found = tried("hide runs", part.hide, scores, mask, given=given)
    close(found, [[1.0, -math.inf], [3.0, 4.0]], "hide puts -inf where the mask is False, and leaves the rest", given=given)
    close(scores, before, "hide must not write into the scores that it was given", given=given)
    close(tried("hide runs without a mask", part.hide, scores, None), before, "without a mask nothing is hidden", given=f"scores {before.tolist()}, mask None")


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
    given = f"{drawn(mask)} (1: may look)"
    error = refused(lambda: part.hide(torch.zeros(4, 4), mask), ShapeError, "a query that may look nowhere is an error, never NaN", given=given)
    holds("2" in str(error), "the error names the row, counted from 0", given=given, expected="a message with the number 2", found=str(error))
    batch = torch.stack([lower(4), mask])[:, None]
    says = "one such query in a batch is an error too"
    refused(lambda: part.hide(torch.zeros(2, 3, 4, 4), batch), ShapeError, says, given=f"the second of two: {given}")


@check(
    "3 · The causal mask",
    hints=(
        "attend has an argument that it did not need so far. At which of its lines does the mask come in?",
        "Setting weights to 0 after softmax is too late: the hidden scores are in the denominator by then, and rows no longer sum to 1.",
        "`scores = hide(scores, mask)` after scaling and *before* softmax: e^(-inf) is exactly 0 in numerator and denominator.",
    ),
)
def check_hidden_keys_do_not_matter(part: Part, rng: random.Random) -> None:
    (q, k, v), mask = (noise(rng, 4, 8) for _ in range(3)), lower(4)
    given = f"4 queries, 4 keys, {drawn(mask)} (1: may look)"
    out, weights = tried("attend takes a mask", part.attend, q, k, v, mask, given=given)
    free = part.attend(q, k, v)[1]
    holds(not equals(weights, free), "attend ignores its mask", given=given, expected="weights other than without a mask", found="the same weights")
    alike(weights.masked_fill(mask, 0), torch.zeros(4, 4), "what the mask hides has weight exactly 0", given=given, atol=0)
    says = "under a mask the weights of a query still sum to 1; a mask that comes after softmax leaves the hidden scores in the denominator"
    alike(weights.sum(-1), torch.ones(4), says, given=given)
    other_k, other_v = k.clone(), v.clone()
    other_k[2:], other_v[2:] = 30 * other_k[2:] + 1, 100.0
    moved, _ = part.attend(q, other_k, other_v, mask)
    alike(moved[:2], out[:2], "queries 0 and 1 do not notice that keys and values 2 and 3 changed", given=given)
    holds(not equals(moved[2:], out[2:]), "queries 2 and 3 do notice that keys and values 2 and 3 changed", given=given)


@check(
    "3 · The causal mask",
    hints=(
        "One mask for all, or one for each sequence of a batch: it has fewer axes than the scores, or axes of length 1. Does every line of yours allow that?",
        "A boolean tensor broadcasts as numbers do: let `masked_fill` do it, and do not build rows by hand.",
        "`hide(scores, mask)` with `scores.masked_fill(~mask, -math.inf)` takes (T S), (B 1 1 S) and (B 1 T S) alike.",
    ),
)
def check_masked_attend_equals_torch(part: Part, rng: random.Random) -> None:
    padding = torch.tensor([[True, True, True, True, False, False], [True, False, True, True, True, True]])[:, None, None]
    for mask, words in ((lower(4, 6), "causal"), (padding, "padding, (B 1 1 S)"), (padding & lower(4, 6), "both, (B 1 T S)")):
        q, k, v = (noise(rng, 2, HEADS, n, 4).requires_grad_() for n in (4, 6, 6))
        given = f"4 queries, 6 keys, 3 heads, mask: {words}"
        out, _ = tried("attend takes a mask", part.attend, q, k, v, mask, given=given)
        equals_torchs(out, (q, k, v), mask, rng, given)


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
    alike(
        heads[:, 1], strided[..., WIDTH // HEADS : 2 * WIDTH // HEADS], "head 1 of a slice of a wider tensor holds columns 4 to 7", given="(2, 5, 12), 3 heads"
    )


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
    heads = noise(rng, 2, 3, 5, 4)
    found = tried("merge_heads runs", part.merge_heads, heads, given="(2, 3, 5, 4)")
    alike(found, torch.cat([heads[:, h] for h in range(3)], dim=-1), "the heads of one position lie side by side again", given="(2, 3, 5, 4)")


CHECKS: tuple[Check, ...] = (
    check_past_is_averaged,
    check_rows_are_distributions,
    check_scores_are_scaled,
    check_values_are_mixed,
    check_attend_equals_torch,
    check_dropout_acts_on_the_weights,
    check_mask_is_a_triangle,
    check_hidden_scores_are_minus_infinity,
    check_an_empty_row_is_an_error,
    check_hidden_keys_do_not_matter,
    check_masked_attend_equals_torch,
    check_heads_are_slices,
    check_heads_rejoin,
    *LAYER_CHECKS,
)
