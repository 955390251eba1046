"""What tiled attention costs: memory that grows with T and not with T², the same arithmetic, and how far that lies from the machine's limits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from underhood.lab.baselines.flash import peak_bytes
from underhood.lab.timing import best_of, matmul_gflop_per_s
from underhood.nn.attention import plain, sdpa
from underhood.nn.dropout import Dropout
from underhood.nn.flash import flash

SECONDS = 25  # about, on one thread
HEADS, WIDTH = 4, 64  # H, D
LENGTHS = (256, 512, 1024, 2048)
KERNELS = {"plain": plain, "tiled": flash, "fused": sdpa}  # fused is torch's own
BYTES = 4  # of a float32


def measure(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """Forward and backward of causal attention, one sequence, four heads of 64 in float32; units are in the names."""
    peak, read = matmul_gflop_per_s(), read_gb_per_s()
    limits = {"matmul_peak_gflop_per_s": round(peak, 1), "read_gb_per_s": round(read, 1), "balance_flop_per_byte": round(peak / read, 1)}
    return {"heads": HEADS, "head_width": WIDTH, **limits, **{f"T={T}": at_length(T, peak) for T in lengths}}


def at_length(T: int, peak: float) -> dict[str, float]:
    """Counted: memory beyond inputs, operations of a causal forward and backward pass, their bytes at least. Timed: each kernel, beside the matmul peak."""
    found: dict[str, float] = {"scores_mib": round(HEADS * T * T * BYTES / 2**20, 3)}
    for name, kernel in KERNELS.items():
        found[f"{name}_peak_mib"] = round(peak_bytes(step(kernel, T)) / 2**20, 3)
        found[f"{name}_ms"] = round(1e3 * best_of(step(kernel, T)), 2)
    return found | {
        "plain_over_tiled_memory": round(found["plain_peak_mib"] / found["tiled_peak_mib"], 1),
        "plain_over_tiled_time": round(found["plain_ms"] / found["tiled_ms"], 2),
        "tiled_over_fused_time": round(found["tiled_ms"] / found["fused_ms"], 2),
        "gflop": round(flops(T) / 1e9, 4),
        "limit_ms": round(flops(T) / peak / 1e6, 2),
        "plain_flop_per_byte": round(flops(T) / plain_bytes(T), 1),
        "tiled_flop_per_byte": round(flops(T) / tiled_bytes(T), 1),
    }


def step(kernel: Callable[..., Any], T: int) -> Callable[[], object]:
    """Forward and backward of one sequence."""
    generator, dropout = torch.Generator().manual_seed(0), Dropout(0.0)
    q, k, v, upstream = (torch.randn(1, HEADS, T, WIDTH, generator=generator) for _ in range(4))
    q, k, v = (x.requires_grad_() for x in (q, k, v))

    def run() -> tuple[Tensor, ...]:
        out = kernel(q, k, v, causal=True, mask=None, dropout=dropout)[0]
        return torch.autograd.grad(out, (q, k, v), upstream)

    return run


def flops(T: int) -> int:
    """Two products forward and five backward, each 2 · T² · D a head; the hidden half is not counted."""
    return 7 * 2 * T * T * WIDTH * HEADS // 2


def plain_bytes(T: int) -> int:
    """What must pass through memory at least when matrices of T² are written and read again, each operation by itself.

    Forward: scores written and read, weights written and read. Backward: weights read for dv; their gradient written; both read, dscores written, and
    read for dq and for dk. That is 11 T² a head; the matrices of T · D are in ``tiled_bytes``.
    """
    return HEADS * 11 * T * T * BYTES + tiled_bytes(T)


def tiled_bytes(T: int) -> int:
    """The same when no tile leaves the cache: forward reads q, k, v and writes out; backward reads q, k, v, out, its gradient, and writes three."""
    return HEADS * 12 * T * WIDTH * BYTES


def read_gb_per_s(n: int = 1 << 26) -> float:
    """The sum of 256 MiB of float32."""
    numbers = torch.ones(n)
    return BYTES * n / best_of(numbers.sum) / 1e9
