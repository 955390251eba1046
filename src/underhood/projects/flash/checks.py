"""What any correct tiled attention satisfies. The oracles are torch's own attention, torch's log-sum-exp and numbers worked by hand."""

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.base.errors import ShapeError
from underhood.lab.check import Check, Part, check, close, equal, holds, refuses
from underhood.lab.oracles import lower, noise, tried
from underhood.nn.dropout import Dropout

SHAPES = ((8, 8, (4, 4)), (7, 7, (3, 2)), (5, 11, (2, 4)), (1, 6, (4, 4)), (6, 6, (1, 1)), (3, 3, (16, 16)))  # T, S, tile: whole, ragged, one row, one tile
AGREES = 1e-9


def drawn(rng: random.Random, T: int, S: int, heads: tuple[int, int] = (2, 2), *, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in float64; ``spread`` makes the scores large enough that their maximum grows from tile to tile."""
    (H, G), D = heads, 4
    return spread * noise(rng, 2, H, T, D), noise(rng, 2, G, S, D), noise(rng, 2, G, S, D + 1)


def torchs(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None = None) -> Tensor:
    """torch's attention; the causal diagonal ends in the lower right corner."""
    if causal:
        past = lower(q.shape[-2], k.shape[-2])
        mask = past if mask is None else past & mask
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def log_sums(q: Tensor, k: Tensor, *, causal: bool) -> Tensor:
    """The log of each row's sum of exp(score)."""
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores.masked_fill(~lower(*scores.shape[-2:]), -math.inf) if causal else scores).logsumexp(-1)


def words(T: int, S: int, tile: tuple[int, int], causal: bool) -> str:
    """The case in words."""
    return f"{T} queries, {S} keys, tiles of {tile[0]} × {tile[1]}, {'causal' if causal else 'everything in sight'}"


def nothing_seen(t: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The state of ``t`` queries before the first key."""
    return torch.full((t, 1), -math.inf, dtype=torch.float64), torch.zeros(t, 1, dtype=torch.float64), torch.zeros(t, width, dtype=torch.float64)


# ── step 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · The online softmax",
    hints=(
        "One query, two keys with scores ln 3 and 0. What is the largest score, and what are the two weights relative to it?",
        "The state is (m, l, a): the largest score, the sum of exp(score - m), and the same sum with each term times its value.",
        "From an empty state: m = scores.amax(-1, keepdim=True), w = (scores - m).exp(), l = w.sum(-1, keepdim=True), a = w @ v.",
    ),
)
def check_one_tile_by_hand(part: Part, rng: random.Random) -> None:
    scores, v = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64), torch.tensor([[4.0], [8.0]], dtype=torch.float64)
    m, l, a = tried("absorb takes a first tile", part.absorb, nothing_seen(1, 1), scores, v, given={"scores": scores, "v": v})
    close(m, [[math.log(3)]], "m is the largest score so far", given=scores)
    close(l, [[4 / 3]], "l is exp(ln 3 - ln 3) + exp(0 - ln 3) = 1 + 1/3", given=scores)
    close(a / l, [[5.0]], "a / l is the mean of 4 and 8 under the weights 3/4 and 1/4", given={"scores": scores, "v": v})


@check(
    "1 · The online softmax",
    hints=(
        "After the first tile everything is relative to the old maximum. What happens to these numbers when a larger score arrives?",
        "exp(s - new m) = exp(s - old m) · exp(old m - new m). Both sums have terms of this form.",
        "`shrink = (m - top).exp()`, then `l = l * shrink + …` and `a = a * shrink + …`, with `top` the maximum of old m and the new scores.",
    ),
)
def check_two_tiles_equal_one(part: Part, rng: random.Random) -> None:
    for rise in (5.0, -5.0, 0.0):
        first, second, v = noise(rng, 3, 4), noise(rng, 3, 2) + rise, noise(rng, 6, 2)
        state = tried("absorb takes a first tile", part.absorb, nothing_seen(3, 2), first, v[:4])
        m, l, a = tried("absorb takes a second tile", part.absorb, state, second, v[4:])
        both = torch.cat([first, second], dim=-1)
        given = f"the second tile's scores are {rise:+} beside the first's"
        close(a / l, both.softmax(-1) @ v, "two tiles, one after the other, give what both at once give", given=given, atol=AGREES)
        close(m + l.log(), both.logsumexp(-1, keepdim=True), "m + ln l is the log of the sum of exp(score) over both tiles", given=given, atol=AGREES)


@check(
    "1 · The online softmax",
    hints=(
        "exp(89) is more than float32 can hold. Do scores of a thousand appear anywhere as an argument of exp?",
        "Only differences matter to softmax. Subtract the largest score seen so far before you take powers.",
        "`weights = (scores - top).exp()` with `top = torch.maximum(m, scores.amax(-1, keepdim=True))`.",
    ),
)
def check_large_scores_are_safe(part: Part, rng: random.Random) -> None:
    state, v = tuple(x.float() for x in nothing_seen(1, 1)), torch.tensor([[2.0], [6.0]])
    for scores in ([[1000.0, 1000.0]], [[-1000.0, -1000.0]]):
        _, l, a = tried("absorb takes large scores", part.absorb, state, torch.tensor(scores), v, given=scores)
        close(a / l, [[4.0]], "two equal scores weigh alike, however large they are", given=scores)


@check(
    "1 · The online softmax",
    hints=(
        "A whole tile may be hidden: all its scores are -inf. What is -inf - -inf?",
        "A query that has seen nothing keeps m = -inf, l = 0, a = 0, and must be able to go on from there.",
        "`zero = top.masked_fill(top == -math.inf, 0.0)`, and subtract `zero` in both exponents.",
    ),
)
def check_a_hidden_tile_changes_nothing(part: Part, rng: random.Random) -> None:
    scores, v, hidden = noise(rng, 2, 3), noise(rng, 3, 2), torch.full((2, 3), -math.inf, dtype=torch.float64)
    seen = tried("absorb takes a hidden tile first", part.absorb, nothing_seen(2, 2), hidden, v)
    equal([x.tolist() for x in seen], [x.tolist() for x in nothing_seen(2, 2)], "a query that has seen nothing has m = -inf, l = 0 and a = 0")
    state = tried("absorb goes on from there", part.absorb, seen, scores, v)
    _, l, a = tried("absorb takes a hidden tile last", part.absorb, state, hidden, v)
    close(a / l, scores.softmax(-1) @ v, "hidden tiles before and after change nothing", given=scores, atol=AGREES)


# ── step 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "2 · Tiles",
    hints=(
        "Seven positions in tiles of three: how many tiles, and how long is the last?",
        "Start at 0, size, 2·size, … below n; no tile ends beyond n.",
        "`[slice(start, min(start + size, n)) for start in range(0, n, size)]`.",
    ),
)
def check_tiles_cover_everything_once(part: Part, rng: random.Random) -> None:
    for n, size, expected in ((7, 3, [(0, 3), (3, 6), (6, 7)]), (6, 3, [(0, 3), (3, 6)]), (2, 5, [(0, 2)]), (0, 4, [])):
        found = tried("tiles gives slices", part.tiles, n, size, given=f"{n} positions, tiles of {size}")
        equal([(t.start, t.stop) for t in found], expected, "the tiles cover every position once, in order", given=f"{n} positions, tiles of {size}")


@check(
    "2 · Tiles",
    hints=(
        "Queries 2 and 3 of six, six keys: which keys does query 3 see? And with five more keys in the past?",
        "The last query of the tile sees farthest. Query t stands at position t + S - T, and it sees itself.",
        "`max(0, rows.stop + S - T) if causal else S`.",
    ),
)
def check_keys_in_sight_end_at_the_diagonal(part: Part, rng: random.Random) -> None:
    for rows, T, S, expected in ((slice(2, 4), 6, 6, 4), (slice(0, 1), 6, 6, 1), (slice(4, 6), 6, 6, 6), (slice(0, 2), 3, 8, 7), (slice(0, 1), 4, 2, 0)):
        given = f"queries {rows.start} to {rows.stop - 1} of {T}, {S} keys"
        found = tried("keys_in_sight counts keys", part.keys_in_sight, rows, T, S, causal=True, given=given)
        equal(found, expected, "so many keys, from the first on, are seen by one query of the tile at least", given=given)
        equal(tried("keys_in_sight counts keys", part.keys_in_sight, rows, T, S, causal=False), S, "without a causal mask all keys are in sight", given=given)


# ── step 3 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · The scores of one tile",
    hints=(
        "Sixteen bits hold three decimal digits. A product of 64 terms, rounded to that, is what softmax would see.",
        "Tiles are small: each can be copied to float32 before it is used. float64 should stay, for tests.",
        "`x if x.dtype == torch.float64 else x.float()`, on the tile of q and on the tile of k.",
    ),
)
def check_scores_are_wide(part: Part, rng: random.Random) -> None:
    for narrow, wide in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)):
        x = noise(rng, 5, 3, dtype=narrow)
        found = tried("widen runs", part.widen, x, given=str(narrow))
        equal(str(found.dtype), str(wide), "16 bits become float32, float64 stays", given=str(narrow))
        equal(found.tolist(), x.tolist(), "the numbers stay", given=str(narrow))
    q, k = noise(rng, 3, 64, dtype=torch.float16), noise(rng, 3, 64, dtype=torch.float16)
    found = tried("tile_scores takes float16", part.tile_scores, q, k, slice(0, 3), slice(0, 3), causal=False)
    close(found, q.double() @ k.double().T / 8, "the scores of float16 tiles have float32's precision", atol=1e-5)


@check(
    "3 · The scores of one tile",
    hints=(
        "Compute the whole 5 × 7 matrix of scores on paper and cut the tile out of it. The diagonal runs through some tiles, misses others.",
        "Row i of the tile is query rows.start + i, at position rows.start + i + S - T; column j is key cols.start + j. Hidden means later.",
        "`torch.ones(t, s, dtype=torch.bool).tril(rows.start + S - T - cols.start)` may be seen; -inf elsewhere. A mask is cut as mask[..., rows, cols].",
    ),
)
def check_a_tile_is_cut_from_the_matrix(part: Part, rng: random.Random) -> None:
    for T, S, causal, masked in ((5, 5, False, False), (5, 5, True, False), (4, 7, True, False), (5, 5, True, True), (3, 6, False, True)):
        q, k = noise(rng, 2, T, 4), noise(rng, 2, S, 4)
        mask = noise(rng, 2, T, S) > -0.5 if masked else None
        whole = q @ k.transpose(-2, -1) / 2
        whole = whole.masked_fill(~lower(T, S), -math.inf) if causal else whole
        whole = whole if mask is None else whole.masked_fill(~mask, -math.inf)
        for rows in (slice(0, 2), slice(2, T)):
            for cols in (slice(0, 1), slice(1, 4), slice(3, S)):
                given = f"rows {rows.start}:{rows.stop} of {T}, columns {cols.start}:{cols.stop} of {S}, causal {causal}, mask {masked}"
                found = tried("tile_scores runs", part.tile_scores, q, k, rows, cols, causal=causal, mask=mask, given=given)
                close(found, whole[..., rows, cols], "a tile holds what the whole matrix holds there", given=given, atol=AGREES)


# ── step 4 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · The forward pass",
    hints=(
        "Take tiles larger than the text first: then there is one of each. Next one row of tiles; then several.",
        "For each tile of queries: an empty state, all its tiles of keys in sight, and only then a / l. In a / l nothing is missing but the division.",
        "`m, l, a = absorb((m, l, a), tile_scores(q, k, rows, cols, …), widen(v[..., cols, :]))`; `out[..., rows, :] = a / l`; log-sum `m + l.log()`.",
    ),
)
def check_forward_equals_torch(part: Part, rng: random.Random) -> None:
    for T, S, tile in SHAPES:
        for causal in (False, True):
            (q, k, v), given = drawn(rng, T, S), words(T, S, tile, causal)
            out, log_sum = tried("flash_forward returns (out, log_sum)", part.flash_forward, q, k, v, causal=causal, tile=tile, given=given)
            close(out, torchs(q, k, v, causal=causal), "the output equals torch's", given=given, atol=AGREES)
            close(log_sum, log_sums(q, k, causal=causal), "log_sum is the log of each row's sum of exp(score)", given=given, atol=AGREES)


@check(
    "4 · The forward pass",
    hints=(
        "Six query heads and two key heads: who reads whom? Heads 0, 1 and 2 share one.",
        "Query head h reads key head h // (H/G). A view of q as (B G R T D) beside k as (B G 1 S D) lets broadcasting do it.",
        "`q, k, v, mask = in_groups(q, k, v, mask)` before the loops, `.flatten(1, 2)` on what is returned.",
    ),
)
def check_heads_share_keys(part: Part, rng: random.Random) -> None:
    for heads in ((6, 2), (4, 1)):
        q, k, v = drawn(rng, 5, 5, heads)
        out, log_sum = tried("flash_forward takes fewer key heads than query heads", part.flash_forward, q, k, v, causal=True, tile=(2, 3), given=heads)
        close(out, torchs(q, k, v, causal=True), "query head h reads key head h // (H/G), as torch's enable_gqa", given=heads, atol=AGREES)
        close(log_sum, log_sums(q, k, causal=True), "so do the log-sums", given=heads, atol=AGREES)


@check(
    "4 · The forward pass",
    hints=(
        "Is it really computed in tiles? The sums of a tiled softmax are rounded in another order than those of a whole row.",
        "The size that is asked for must reach both loops: `tiles(T, tile[0])` and `tiles(…, tile[1])`.",
        "`for rows in tiles(T, tile[0]):` and inside it `for cols in tiles(keys_in_sight(rows, T, S, causal=causal), tile[1]):`.",
    ),
)
def check_the_tile_size_is_used(part: Part, rng: random.Random) -> None:
    q, k, v = (noise(rng, 1, 1, 192, 8, dtype=torch.float32) for _ in range(3))
    small, large = (tried("flash_forward takes a tile size", part.flash_forward, q, k, v, tile=tile)[0] for tile in ((16, 16), (192, 192)))
    close(small, large, "another tile size changes rounding and nothing more", atol=1e-5)
    same = bool((small == large).all())
    holds(not same, "with other tiles the last bits differ somewhere; here none of 1,536 does, so the size is not used", found="all bits equal")


@check(
    "4 · The forward pass",
    hints=(
        "Hundreds of keys, float16: how exact can the output be? As exact as float16 can hold the true one.",
        "m, l and a must be wide through the whole loop. Only the finished output is narrow again.",
        "Make the state from a widened tile: `widen(q[..., rows, :1]).new_full(…)`, and widen v's tile too; assigning to `out` rounds once.",
    ),
)
def check_sixteen_bits_are_rounded_once(part: Part, rng: random.Random) -> None:
    for dtype, bits in ((torch.float16, 11), (torch.bfloat16, 8)):
        q, k, v = (noise(rng, 1, 1, 256, 16, dtype=dtype) for _ in range(3))
        out, log_sum = tried("flash_forward takes 16 bits", part.flash_forward, q, k, v, tile=(64, 16), given=str(dtype))
        equal(str(out.dtype), str(dtype), "the output has the dtype of the queries")
        equal(str(log_sum.dtype), "torch.float32", "the log-sums are wide", given=str(dtype))
        true = torchs(q.double(), k.double(), v.double(), causal=False)
        share = float(((out.double() - true).abs() / (true.abs() * 2.0**-bits + 1e-6)).max())
        holds(
            share <= 1.1, "no output is farther from the truth than rounding it once", given=str(dtype), expected="at most 1.1 roundings", found=round(share, 2)
        )


# ── step 5 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def gradients(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor, *, causal: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """torch's output, the log-sums, and torch's gradients."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = torchs(*leaves, causal=causal)
    return out.detach(), log_sums(q, k, causal=causal), torch.autograd.grad(out, leaves, upstream)


@check(
    "5 · The backward pass",
    hints=(
        "The weights are not there any more. What do you have from which one tile of them can be made again?",
        "weights = exp(scores - log_sum). Then dv = weightsᵀ g; dweights = g vᵀ; dscores = weights · (dweights - D), with D = Σ g · out of the row.",
        "`dscores = weights * (dweights - row_sum[..., rows, :]) * scale`; dq += dscores @ k, dk += dscoresᵀ @ q, dv += weightsᵀ @ g.",
    ),
)
def check_backward_equals_torch(part: Part, rng: random.Random) -> None:
    for T, S, tile in SHAPES:
        for causal in (False, True):
            (q, k, v), given = drawn(rng, T, S), words(T, S, tile, causal)
            upstream = noise(rng, 2, 2, T, 5)
            out, log_sum, theirs = gradients(q, k, v, upstream, causal=causal)
            mine = tried("flash_backward runs", part.flash_backward, upstream, q, k, v, out, log_sum, causal=causal, tile=tile, given=given)
            for name, a, b in zip("qkv", mine, theirs, strict=True):
                close(a, b, f"the gradient at {name} equals torch's", given=given, atol=AGREES)


@check(
    "5 · The backward pass",
    hints=(
        "Three query heads read one key head. How many gradients arrive at it?",
        "Where the forward pass broadcasts, the backward pass sums: over the R query heads of each group.",
        "`(dscores.transpose(-2, -1) @ q_tile).sum(2, keepdim=True)` for dk, and the same for dv; dq is not summed.",
    ),
)
def check_shared_keys_gather_gradients(part: Part, rng: random.Random) -> None:
    q, k, v = drawn(rng, 5, 5, (6, 2))
    upstream = noise(rng, 2, 6, 5, 5)
    out, log_sum, theirs = gradients(q, k, v, upstream, causal=True)
    mine = tried("flash_backward takes fewer key heads than query heads", part.flash_backward, upstream, q, k, v, out, log_sum, causal=True, tile=(2, 3))
    for name, a, b in zip("qkv", mine, theirs, strict=True):
        close(a, b, f"with shared keys the gradient at {name} equals torch's", atol=AGREES)


# ── step 6 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "6 · A kernel for the model",
    hints=(
        "forward and backward are each right. Does what one saves reach the other?",
        "A torch.autograd.Function: save q, k, v, mask, out and log_sum; keep causal and tile on ctx; return None for what has no gradient.",
        "`ctx.save_for_backward(q, k, v, mask, out, log_sum)`; in backward `return *flash_backward(…), None, None, None`.",
    ),
)
def check_gradients_flow(part: Part, rng: random.Random) -> None:
    for T, S, tile in ((7, 7, (3, 2)), (5, 11, (2, 4))):
        wide = [noise(rng, 2, n, 2, 4).requires_grad_() for n in (T, S, S)]
        q, k, v = (x.transpose(1, 2) for x in wide)  # heads as split_heads gives them: not contiguous
        given = words(T, S, tile, True)
        out = tried("flash_attention runs", part.flash_attention, q, k, v, causal=True, tile=tile, given=given)
        expected = torchs(q, k, v, causal=True)
        close(out, expected, "the output equals torch's", given=given, atol=AGREES)
        upstream = noise(rng, *expected.shape)
        theirs = torch.autograd.grad(expected, wide, upstream)
        mine = tried("the gradient reaches q, k and v", torch.autograd.grad, out, wide, upstream, given=given)
        for name, a, b in zip("qkv", mine, theirs, strict=True):
            close(a, b, f"the gradient at {name} equals torch's", given=given, atol=AGREES)


@check(
    "6 · A kernel for the model",
    hints=(
        "The layer calls kernel(q, k, v, causal=…, mask=…, dropout=…) and expects a pair.",
        "The weights were never held, so None stands for them. A mask may be smaller than (B H T S): it broadcasts.",
        "`return flash_attention(q, k, v, causal=causal, mask=mask), None`; with dropout active hand over to `plain`.",
    ),
)
def check_it_is_a_kernel(part: Part, rng: random.Random) -> None:
    q, k, v = drawn(rng, 70, 75)
    padding = torch.ones(2, 1, 1, 75, dtype=torch.bool)
    padding[1, ..., :4] = False
    for causal, mask in ((True, None), (False, padding), (True, padding)):
        given = f"causal {causal}, {'no mask' if mask is None else 'the second sequence begins with padding'}"
        out, weights = tried("flash returns (out, None)", part.flash, q, k, v, causal=causal, mask=mask, dropout=Dropout(0.0), given=given)
        equal(weights, None, "None stands for the weights")
        close(out, torchs(q, k, v, causal=causal, mask=mask), "the output equals torch's", given=given, atol=AGREES)


@check(
    "6 · A kernel for the model",
    hints=(
        "A row in which everything is hidden: what is l at its end, and what is a / l?",
        "A log-sum of -inf after the last tile says it. Then 0/0 would go into the model; say which query it was instead.",
        "`require_seen(log_sum)` after the loops; and refuse a number of query heads that is no multiple of the key heads.",
    ),
)
def check_an_empty_row_is_an_error(part: Part, rng: random.Random) -> None:
    q, k, v = drawn(rng, 4, 4)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False
    refuses(lambda: part.flash_attention(q, k, v, mask=mask), ShapeError, "a query that may look nowhere is an error, never NaN", given=mask)
    refuses(lambda: part.flash_attention(q, k[:, :, :2], v[:, :, :2], causal=True), ShapeError, "four queries cannot be the last of two positions")
    q, k, v = drawn(rng, 4, 4, (3, 2))
    refuses(lambda: part.flash_attention(q, k, v), ShapeError, "three query heads cannot share two key heads")


CHECKS: tuple[Check, ...] = (
    check_one_tile_by_hand,
    check_two_tiles_equal_one,
    check_large_scores_are_safe,
    check_a_hidden_tile_changes_nothing,
    check_tiles_cover_everything_once,
    check_keys_in_sight_end_at_the_diagonal,
    check_scores_are_wide,
    check_a_tile_is_cut_from_the_matrix,
    check_forward_equals_torch,
    check_heads_share_keys,
    check_the_tile_size_is_used,
    check_sixteen_bits_are_rounded_once,
    check_backward_equals_torch,
    check_shared_keys_gather_gradients,
    check_gradients_flow,
    check_it_is_a_kernel,
    check_an_empty_row_is_an_error,
)
