"""Attention without the T × S matrix: queries and keys in tiles, and a softmax that is corrected as each tile arrives.

The online softmax is Milakov and Gimelshein's (2018, arXiv 1805.02867, algorithm 3); tiled attention built on it is FlashAttention (Dao et al. 2022,
arXiv 2205.14135; the loop order, the one saved statistic and the masking of tiles follow Dao 2023, arXiv 2307.08691, algorithms 1 and 2).
It computes what ``attention.attend`` does, which defines correct. Here each step is a line of PyTorch that can be read and broken; the fast twin
is ``underhood.kernels.flash``.

``flash`` is a kernel for ``AttentionConfig.kernel``. Queries (B H T D) may have more heads than keys and values (B G S D): query head h then reads
key head h // (H/G) (Ainslie et al. 2023, arXiv 2305.13245). Scores, statistics and sums are float32, or float64 for float64 input.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from underhood.base.errors import ShapeError
from underhood.nn.attention import Mixed, plain
from underhood.nn.dropout import Dropout

TILE = (64, 64)  # queries × keys: 16 KiB of scores a head in float32, which stays in a core's cache
State = tuple[Float[Tensor, "... t 1"], Float[Tensor, "... t 1"], Float[Tensor, "... t E"]]  # (largest score, sum of weights, weighted sum of values)


def absorb(state: State, scores: Float[Tensor, "... t s"], v: Float[Tensor, "... s E"]) -> State:
    """The state of ``t`` queries after ``s`` more keys: the largest score m so far, the sum l of exp(score - m), and the sum a of exp(score - m) · v.

    A query that has seen nothing has m = -inf, l = 0, a = 0; so has one whose scores are all -inf. At the end the output is a / l.

    How: everything so far was relative to the old m. When m grows, both sums shrink by exp(old m - new m); then the new keys are added.
    """
    m, l, a = state
    top = torch.maximum(m, scores.amax(-1, keepdim=True))
    zero = top.masked_fill(top == -math.inf, 0.0)  # -inf - -inf is NaN
    weights = (scores - zero).exp()
    shrink = (m - zero).exp()
    l = l * shrink + weights.sum(-1, keepdim=True)
    a = a * shrink + weights @ v
    return top, l, a


def tiles(n: int, size: int) -> list[slice]:
    """``n`` positions in order, cut into slices of ``size``; the last one is shorter when ``size`` does not divide ``n``. None for n = 0."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def keys_in_sight(rows: slice, T: int, S: int, *, causal: bool) -> int:
    """How many of S keys, from the first on, at least one query of ``rows`` may look at. Queries and keys end at the same position.

    How: query t stands at position t + S - T, and the last query of ``rows`` sees farthest.
    """
    return max(0, rows.stop + S - T) if causal else S


def widen(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``x`` in the precision that scores, statistics and sums are kept in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def tile_scores(
    q: Float[Tensor, "... T D"], k: Float[Tensor, "... S D"], rows: slice, cols: slice, *, causal: bool, mask: Bool[Tensor, "... T S"] | None = None
) -> Float[Tensor, "... t s"]:
    """The scores q · k / √D of the queries in ``rows`` and the keys in ``cols``, wide, and -inf where a query may not look.

    ``causal`` hides what comes after a query (they end at the same position as the keys), ``mask`` what is False.
    """
    past = k.shape[-2] - q.shape[-2]
    scores = widen(q[..., rows, :]) @ widen(k[..., cols, :]).transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal and cols.stop - 1 > rows.start + past:  # the tile crosses the diagonal
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(rows.start + past - cols.start)
        scores = scores.masked_fill(~seen, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask[..., rows, cols], -math.inf)
    return scores


def flash_forward(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "... T S"] | None = None,
    tile: tuple[int, int] = TILE,
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T"]]:
    """The attention's output in ``q``'s dtype and, wide, the log of each row's sum of exp(score): all that the backward pass needs of the weights.

    ``tile`` is how many queries and how many keys are looked at together. Raises ``ShapeError`` naming a query with nothing to attend to.

    How: for each tile of queries an empty state absorbs one tile of keys after the other; then out = a / l and log-sum = m + ln l.
    """
    T, S = q.shape[-2], k.shape[-2]
    q, k, v, mask = in_groups(q, k, v, mask)
    out, log_sum = q.new_zeros(*q.shape[:-1], v.shape[-1]), widen(q.new_zeros(q.shape[:-1]))
    for rows in tiles(T, tile[0]):
        m = widen(q[..., rows, :1]).new_full((*q.shape[:-2], rows.stop - rows.start, 1), -math.inf)
        l, a = torch.zeros_like(m), m.new_zeros(*m.shape[:-1], v.shape[-1])
        for cols in tiles(keys_in_sight(rows, T, S, causal=causal), tile[1]):
            scores = tile_scores(q, k, rows, cols, causal=causal, mask=mask)
            m, l, a = absorb((m, l, a), scores, widen(v[..., cols, :]))
        out[..., rows, :] = a / l
        log_sum[..., rows] = (m + l.log()).squeeze(-1)
    require_seen(log_sum)
    return out.flatten(1, 2), log_sum.flatten(1, 2)


def flash_backward(
    upstream: Float[Tensor, "B H T E"],
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    out: Float[Tensor, "B H T E"],
    log_sum: Float[Tensor, "B H T"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "... T S"] | None = None,
    tile: tuple[int, int] = TILE,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G S D"], Float[Tensor, "B G S E"]]:
    """The gradients at q, k and v, each in its dtype, from the gradient at the output and what ``flash_forward`` returned.

    How: a tile's weights are exp(score - log_sum). With D = Σ upstream · out of each row, dscore = weight · (upstream · v - D); the rest are products.
    """
    T, S, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    G, dtypes = k.shape[1], (q.dtype, k.dtype, v.dtype)
    q, k, v, mask = in_groups(q, k, v, mask)
    upstream, out, log_sum = (torch.unflatten(x, 1, (G, -1)) for x in (widen(upstream), widen(out), log_sum))
    row_sum = (upstream * out).sum(-1, keepdim=True)
    dq, dk, dv = (torch.zeros_like(widen(x)) for x in (q, k, v))
    for rows in tiles(T, tile[0]):
        g = upstream[..., rows, :]
        for cols in tiles(keys_in_sight(rows, T, S, causal=causal), tile[1]):
            scores = tile_scores(q, k, rows, cols, causal=causal, mask=mask)
            weights = (scores - log_sum[..., rows, None]).exp()
            dweights = g @ widen(v[..., cols, :]).transpose(-2, -1)
            dscores = weights * (dweights - row_sum[..., rows, :]) * scale
            dq[..., rows, :] += dscores @ widen(k[..., cols, :])
            dk[..., cols, :] += (dscores.transpose(-2, -1) @ widen(q[..., rows, :])).sum(2, keepdim=True)
            dv[..., cols, :] += (weights.transpose(-2, -1) @ g).sum(2, keepdim=True)
    return dq.flatten(1, 2).to(dtypes[0]), dk.squeeze(2).to(dtypes[1]), dv.squeeze(2).to(dtypes[2])


def flash_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "... T S"] | None = None,
    tile: tuple[int, int] = TILE,
) -> Float[Tensor, "B H T E"]:
    """``flash_forward``'s output, differentiable: its backward pass is ``flash_backward``, and nothing of size T · S is kept for it.

    Raises ``ShapeError`` when H is no multiple of G, or a query has nothing to attend to.

    How: a ``torch.autograd.Function`` that saves q, k, v, the output and the log-sums.
    """
    if q.shape[1] % k.shape[1]:
        raise ShapeError(f"{q.shape[1]} query heads and {k.shape[1]} key heads", expected="a whole number of query heads for each key head")
    out: Tensor = _Flash.apply(q, k, v, causal, mask, tile)  # type: ignore[no-untyped-call]
    return out


def flash(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """``flash_attention`` as a kernel of ``MultiHeadAttention``; None stands for the weights, which are never held.

    While dropout is active this is ``plain``, since dropout acts on weights.
    """
    if dropout.training and dropout.p > 0:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        return plain(q, k, v, causal=causal, mask=mask, dropout=dropout)
    return flash_attention(q, k, v, causal=causal, mask=mask), None


def in_groups(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S E"], mask: Bool[Tensor, "... T S"] | None
) -> tuple[Float[Tensor, "B G R T D"], Float[Tensor, "B G 1 S D"], Float[Tensor, "B G 1 S E"], Bool[Tensor, "B G R T S"] | None]:
    """Views in which each key head stands beside the R = H/G query heads that read it; nothing is copied, the mask's broadcasting included."""
    (B, H, T, _), (G, S) = q.shape, k.shape[1:3]
    mask = None if mask is None else torch.unflatten(mask.expand(B, H, T, S), 1, (G, -1))
    return torch.unflatten(q, 1, (G, -1)), k.unsqueeze(2), v.unsqueeze(2), mask


def require_seen(log_sum: Float[Tensor, "B G R T"]) -> None:
    """Raise ``ShapeError`` naming the first query whose sum of weights is 0: softmax over nothing is 0/0."""
    nothing = log_sum == -math.inf
    if nothing.any():
        batch, *_, row = nothing.nonzero()[0].tolist()
        raise ShapeError(f"query {row} has nothing to attend to", where=f"sequence {batch}", remedy="Let every query see at least one key: itself.")


class _Flash(torch.autograd.Function):
    """The hand-written pair as one node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None, tile: tuple[int, int]) -> Tensor:
        out, log_sum = flash_forward(q, k, v, causal=causal, mask=mask, tile=tile)
        ctx.save_for_backward(q, k, v, mask, out, log_sum)
        ctx.causal, ctx.tile = causal, tile
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        q, k, v, mask, out, log_sum = ctx.saved_tensors
        gradients = flash_backward(upstream[0], q, k, v, out, log_sum, causal=ctx.causal, mask=mask, tile=ctx.tile)
        return *gradients, None, None, None
