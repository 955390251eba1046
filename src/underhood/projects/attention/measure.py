"""What attention costs: arithmetic and memory grow with T², and how near this machine's matrix products the plain and the fused path come."""

from typing import Any

import torch

from underhood.lab.timing import best_of, matmul_gflop_per_s
from underhood.nn.attention import AttentionConfig, MultiHeadAttention
from underhood.nn.init import fan_in, init_parameters

SECONDS = 4  # about, on one thread
WIDTH, HEADS = 256, 4
LENGTHS = (64, 256, 1024)


def measure() -> dict[str, Any]:
    """Figures of one layer of width 256 with 4 heads in float32, forward, one sequence; units are in the names."""
    peak = matmul_gflop_per_s()
    parameters = 4 * WIDTH * WIDTH + 4 * WIDTH
    lengths = {f"T={T}": at_length(T, peak) for T in LENGTHS}
    return {"width": WIDTH, "heads": HEADS, "parameters": parameters, "matmul_peak_gflop_per_s": round(peak, 1), **lengths}


def at_length(T: int, peak: float) -> dict[str, float]:
    """Counted: floating-point operations and bytes of the weights (B H T T). Timed: plain and fused. Limit: the operations at the matmul peak."""
    flops = flops_of(T)
    plain, fused = seconds_of(T, "plain"), seconds_of(T, "sdpa")
    return {
        "mflop": round(flops / 1e6, 2),
        "mflop_of_it_in_t_squared": round(4 * T * T * WIDTH / 1e6, 2),
        "weights_mib": round(HEADS * T * T * 4 / 2**20, 3),
        "plain_ms": round(1e3 * plain, 3),
        "fused_ms": round(1e3 * fused, 3),
        "limit_ms": round(flops / peak / 1e6, 3),
        "plain_tokens_per_s": round(T / plain),
        "fused_tokens_per_s": round(T / fused),
        "plain_share_of_peak": round(flops / plain / peak / 1e9, 3),
        "fused_share_of_peak": round(flops / fused / peak / 1e9, 3),
    }


def flops_of(T: int) -> int:
    """Four projections at 2 · T · C², scores and mixture at 2 · T² · C each; the masked half is counted, for the plain path computes it."""
    return 4 * 2 * T * WIDTH * WIDTH + 2 * 2 * T * T * WIDTH


def seconds_of(T: int, kernel: str) -> float:
    """The forward pass of one sequence of T positions."""
    layer = MultiHeadAttention(AttentionConfig(width=WIDTH, n_head=HEADS, kernel=kernel))
    init_parameters(layer, 0, fan_in)
    x = torch.randn(1, T, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return best_of(lambda: layer(x))
