"""The twin of ``underhood.nn.flash`` in Triton: the same tiles, but each stays on the chip from its first score to its last product.

One program of the forward kernel computes one tile of queries of one head; it writes the output and each row's log-sum and nothing else (Dao 2023,
arXiv 2307.08691, algorithm 1). The backward pass has two kernels, one for queries and one for keys and values, so that no two programs add to the
same place: it needs no atomic addition and gives the same bits each time. A key head's program walks through all query heads that read it.

Needs the extra ``gpu``. With ``TRITON_INTERPRET=1`` set before this module is imported the kernels run on the CPU, slowly, for tests; tiles are then made
float32 as they are loaded, since the interpreter's bfloat16 arithmetic is wrong.
"""
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, name-defined, valid-type"

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import ConfigError, ShapeError
from underhood.nn import flash as plain_flash
from underhood.nn.attention import Mixed
from underhood.nn.dropout import Dropout

INTERPRETED = bool(triton.knobs.runtime.interpret)
TILE = (64, 64)  # queries × keys
SMALLEST = 16  # a side of what a tensor core multiplies
LOG2_E = tl.constexpr(1.4426950408889634)  # 2^x is one instruction, e^x is two: scores are kept in units of ln 2


@triton.jit
def load_tile(start, at, dims, n, D, WIDE: tl.constexpr):
    """Rows ``at`` of a (n D) matrix, zeros beyond its edges; float32 where ``WIDE``."""
    tile = tl.load(start + at[:, None] * D + dims[None, :], mask=(at[:, None] < n) & (dims[None, :] < D), other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def store_tile(start, tile, at, dims, n, D):
    """The inverse of ``load_tile``; what lies beyond the edges is dropped."""
    tl.store(start + at[:, None] * D + dims[None, :], tile.to(start.dtype.element_ty), mask=(at[:, None] < n) & (dims[None, :] < D))


@triton.jit
def tile_scores(q, k, rows, cols, T, S, scale, CAUSAL: tl.constexpr):
    """q · k · scale in units of ln 2, -inf beyond the last key and, if ``CAUSAL``, after the query (the last query stands at the last key)."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
    seen = cols[None, :] < S
    if CAUSAL:
        seen = seen & (cols[None, :] <= rows[:, None] + (S - T))
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def forward_kernel(
    Q, K, V, OUT, LOG_SUM, T, S, R, D, scale,
    CAUSAL: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (i, h): the output and the log-sums of tile i of query head h, which reads key head h // R."""
    first, head = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    rows, dims = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    K, V = K + head // R * S * D, V + head // R * S * D
    q = load_tile(Q + head * T * D, rows, dims, T, D, WIDE)
    m, l = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
    a = tl.zeros([ROWS, WIDTH], tl.float32)
    in_sight = tl.minimum(S, first + ROWS + S - T) if CAUSAL else S
    for start in range(0, in_sight, COLS):
        cols = start + tl.arange(0, COLS)
        k, v = load_tile(K, cols, dims, S, D, WIDE), load_tile(V, cols, dims, S, D, WIDE)
        scores = tile_scores(q, k, rows, cols, T, S, scale, CAUSAL)
        top = tl.maximum(m, tl.max(scores, 1))
        zero = tl.where(top == float("-inf"), 0.0, top)
        weights = tl.exp2(scores - zero[:, None])
        shrink = tl.exp2(m - zero)
        l = l * shrink + tl.sum(weights, 1)
        a = a * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        m = top
    store_tile(OUT + head * T * D, a / l[:, None], rows, dims, T, D)
    tl.store(LOG_SUM + head * T + rows, (m + tl.log2(l)) / LOG2_E, mask=rows < T)


@triton.jit
def tile_gradient(q, k, v, g, log_sum, row_sum, rows, cols, T, S, scale, CAUSAL: tl.constexpr):
    """(weights, gradient at the scores) of one tile, made again from the log-sums."""
    weights = tl.exp2(tile_scores(q, k, rows, cols, T, S, scale, CAUSAL) - log_sum[:, None] * LOG2_E)
    dweights = tl.dot(g, tl.trans(v), input_precision="ieee")
    return weights, weights * (dweights - row_sum[:, None]) * scale


@triton.jit
def query_kernel(
    Q, K, V, G, LOG_SUM, ROW_SUM, DQ, T, S, R, D, scale,
    CAUSAL: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (i, h): the gradient at tile i of query head h."""
    first, head = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    rows, dims = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    K, V = K + head // R * S * D, V + head // R * S * D
    q, g = load_tile(Q + head * T * D, rows, dims, T, D, WIDE), load_tile(G + head * T * D, rows, dims, T, D, WIDE)
    log_sum = tl.load(LOG_SUM + head * T + rows, mask=rows < T, other=0.0)
    row_sum = tl.load(ROW_SUM + head * T + rows, mask=rows < T, other=0.0)
    dq = tl.zeros([ROWS, WIDTH], tl.float32)
    in_sight = tl.minimum(S, first + ROWS + S - T) if CAUSAL else S
    for start in range(0, in_sight, COLS):
        cols = start + tl.arange(0, COLS)
        k, v = load_tile(K, cols, dims, S, D, WIDE), load_tile(V, cols, dims, S, D, WIDE)
        _, dscores = tile_gradient(q, k, v, g, log_sum, row_sum, rows, cols, T, S, scale, CAUSAL)
        dq += tl.dot(dscores.to(k.dtype), k, input_precision="ieee")
    store_tile(DQ + head * T * D, dq, rows, dims, T, D)


@triton.jit
def key_kernel(
    Q, K, V, G, LOG_SUM, ROW_SUM, DK, DV, T, S, R, D, scale,
    CAUSAL: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (j, g): the gradients at tile j of key head g, from all R query heads that read it."""
    first, group = tl.program_id(0) * COLS, tl.program_id(1).to(tl.int64)
    cols, dims = first + tl.arange(0, COLS), tl.arange(0, WIDTH)
    k, v = load_tile(K + group * S * D, cols, dims, S, D, WIDE), load_tile(V + group * S * D, cols, dims, S, D, WIDE)
    dk, dv = tl.zeros([COLS, WIDTH], tl.float32), tl.zeros([COLS, WIDTH], tl.float32)
    earliest = tl.maximum(0, first - (S - T)) // ROWS * ROWS if CAUSAL else 0  # queries before it see none of these keys
    for r in range(0, R):
        head = group * R + r
        for start in range(earliest, T, ROWS):
            rows = start + tl.arange(0, ROWS)
            q, g = load_tile(Q + head * T * D, rows, dims, T, D, WIDE), load_tile(G + head * T * D, rows, dims, T, D, WIDE)
            log_sum = tl.load(LOG_SUM + head * T + rows, mask=rows < T, other=0.0)
            row_sum = tl.load(ROW_SUM + head * T + rows, mask=rows < T, other=0.0)
            weights, dscores = tile_gradient(q, k, v, g, log_sum, row_sum, rows, cols, T, S, scale, CAUSAL)
            dk += tl.dot(tl.trans(dscores).to(q.dtype), q, input_precision="ieee")
            dv += tl.dot(tl.trans(weights).to(g.dtype), g, input_precision="ieee")
    store_tile(DK + group * S * D, dk, cols, dims, S, D)
    store_tile(DV + group * S * D, dv, cols, dims, S, D)


def flash_attention(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"], *, causal: bool = False, tile: tuple[int, int] = TILE
) -> Float[Tensor, "B H T D"]:
    """``underhood.nn.flash.flash_attention`` for float32, bfloat16 and float16 on a GPU, differentiable; ``tile`` in powers of two, 16 at least.

    Raises ``ShapeError`` for heads or shapes that do not fit and for a causal query before the first key, ``ConfigError`` for tensors that it cannot take.
    """
    _require(q, k, v, causal, tile)
    out: Tensor = _Flash.apply(q.contiguous(), k.contiguous(), v.contiguous(), causal, tile)
    return out


def flash(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Dropout) -> Mixed:
    """``flash_attention`` as a kernel of ``MultiHeadAttention``. With a mask, with dropout active or in float64 this is ``nn.flash``."""
    if mask is not None or q.dtype == torch.float64 or (dropout.training and dropout.p > 0):
        return plain_flash.flash(q, k, v, causal=causal, mask=mask, dropout=dropout)
    return flash_attention(q, k, v, causal=causal), None


def _require(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: tuple[int, int]) -> None:
    if k.shape != v.shape or q.shape[-1] != k.shape[-1] or q.shape[0] != k.shape[0] or q.shape[1] % k.shape[1]:
        found = f"queries {tuple(q.shape)}, keys {tuple(k.shape)}, values {tuple(v.shape)}"
        raise ShapeError(found, expected="(B H T D), (B G S D) and (B G S D), H a multiple of G")
    if causal and q.shape[2] > k.shape[2]:
        raise ShapeError("query 0 has nothing to attend to", expected=f"at least {q.shape[2]} keys for as many queries")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ConfigError(f"found {q.dtype}, {k.dtype} and {v.dtype}", where="kernels.flash", expected="one of float32, bfloat16, float16")
    if any(side < SMALLEST or side & (side - 1) for side in tile):
        raise ConfigError(f"found {tile}", where="tile", expected=f"powers of two, at least {SMALLEST}")
    if q.device.type == "cpu" and not INTERPRETED:
        raise ConfigError("the tensors are on the CPU", where="kernels.flash", remedy="Use underhood.nn.flash there, or set TRITON_INTERPRET=1 for a test.")


class _Flash(torch.autograd.Function):
    """The kernels as one node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: tuple[int, int]) -> Tensor:
        (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
        out, log_sum = torch.empty_like(q), q.new_empty(B, H, T, dtype=torch.float32)
        ctx.options = _options(q, causal, tile)
        forward_kernel[(triton.cdiv(T, tile[0]), B * H)](q, k, v, out, log_sum, T, S, H // G, D, D**-0.5, **ctx.options)
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        q, k, v, out, log_sum = ctx.saved_tensors
        (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
        g = upstream[0].contiguous()
        row_sum = (g.float() * out.float()).sum(-1)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        rows, cols = ctx.options["ROWS"], ctx.options["COLS"]
        given, sizes = (q, k, v, g, log_sum, row_sum), (T, S, H // G, D, D**-0.5)
        query_kernel[(triton.cdiv(T, rows), B * H)](*given, dq, *sizes, **ctx.options)
        key_kernel[(triton.cdiv(S, cols), B * G)](*given, dk, dv, *sizes, **ctx.options)
        return dq, dk, dv, None, None


def _options(q: Tensor, causal: bool, tile: tuple[int, int]) -> dict[str, Any]:
    """What the kernels are compiled for."""
    width = max(SMALLEST, triton.next_power_of_2(q.shape[-1]))
    return {"CAUSAL": causal, "WIDE": INTERPRETED, "ROWS": tile[0], "COLS": tile[1], "WIDTH": width}
