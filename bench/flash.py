"""Attention's time and memory against its length: the plain layer, our tiles, and torch's fused kernel, forward and backward.

    python bench/flash.py [--quick] [--json]

One causal sequence, 8 heads of 64. On the CPU float32, each row in a process of its own with two threads; time is the best of several runs taken in
turns, memory the most bytes of tensors held beyond the inputs (``lab.baselines.flash.peak_bytes``; scratch inside a kernel is not seen). The limit is
the operations of 7 causal products at the rate of a 2048 × 2048 product, measured in the same process.

Where there is a GPU, a second table: the Triton kernels beside torch's in bfloat16, 16,384 tokens, TFLOP/s and the share of a large product's rate.
Without one it says so.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import machine
import torch

from underhood.lab.baselines.flash import peak_bytes
from underhood.nn.attention import plain, sdpa
from underhood.nn.dropout import Dropout
from underhood.nn.flash import flash

KERNELS = {"plain": plain, "tiled": flash, "torch": sdpa}
HEADS, WIDTH = 8, 64
LENGTHS, QUICK = (512, 1024, 2048, 4096), (512, 1024)
TOKENS = 16384  # a batch on the GPU, whatever the length
Step = Callable[[], object]


def step(kernel: Callable[..., Any], T: int, *, batch: int = 1, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Step:
    """Forward and backward."""
    q, k, v, upstream = (torch.randn(batch, HEADS, T, WIDTH, device=device, dtype=dtype) for _ in range(4))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    dropout = Dropout(0.0)
    return lambda: torch.autograd.grad(kernel(q, k, v, causal=True, mask=None, dropout=dropout)[0], (q, k, v), upstream)


def flops(T: int, batch: int = 1) -> int:
    """Two products forward and five backward over half of the T² pairs."""
    return batch * HEADS * 7 * T * T * WIDTH


def on_cpu(T: int) -> dict[str, Any]:
    """One length: seconds and MiB of each kernel, and GFLOP/s of a large product."""
    steps = {name: step(kernel, T) for name, kernel in KERNELS.items()}
    memory = {name: peak_bytes(run) / 2**20 for name, run in steps.items()}
    seconds = dict.fromkeys(steps, float("inf"))
    for _ in range(5):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {"T": T, "seconds": seconds, "mib": memory, "matmul_gflop_per_s": machine.matmul(torch.float32, repeats=5)}


def on_gpu(T: int) -> dict[str, Any]:
    """One length on the GPU: TFLOP/s of the Triton kernels and of torch's, and of a large product in bfloat16."""
    from triton.testing import do_bench

    from underhood.kernels.flash import flash as compiled

    batch = TOKENS // T
    rates = {}
    for name, kernel in {"triton": compiled, "torch": sdpa}.items():
        milliseconds = do_bench(step(kernel, T, batch=batch, device="cuda", dtype=torch.bfloat16))
        rates[name] = flops(T, batch) / milliseconds / 1e9
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return {"T": T, "tflop_per_s": rates, "matmul_tflop_per_s": 2 * 8192**3 / do_bench(lambda: a @ a) / 1e9}


def print_cpu(row: dict[str, Any]) -> None:
    T, seconds, mib = row["T"], row["seconds"], row["mib"]
    limit = flops(T) / row["matmul_gflop_per_s"] / 1e9
    for name in KERNELS:
        print(
            f"T {T:5}  {name:6} {1e3 * seconds[name]:9.1f} ms  {mib[name]:8.1f} MiB   {seconds[name] / seconds['torch']:5.2f} × torch's time"
            f"   {mib[name] / mib['torch']:6.2f} × torch's memory   {limit / seconds[name]:5.1%} of the limit"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(on_cpu(json.loads(options.one)["T"])))
        return 0
    note, lengths = machine.quiet(), QUICK if options.quick else LENGTHS
    rows = [machine.isolated(__file__, 2, {"T": T}) for T in lengths]
    gpu = [on_gpu(T) for T in lengths] if torch.cuda.is_available() else []
    if options.json:
        print(json.dumps({"machine": machine.line(), "note": note, "cpu": rows, "gpu": gpu}))
        return 0
    print(machine.line())
    print(note, end="\n" if note else "")
    for row in rows:
        print_cpu(row)
    print(f"\n{torch.cuda.get_device_name()}, bfloat16" if gpu else "\nno GPU: the Triton kernels were not timed")
    for row in gpu:
        rates, peak = row["tflop_per_s"], row["matmul_tflop_per_s"]
        print(
            f"T {row['T']:5}  triton {rates['triton']:6.0f} TFLOP/s ({rates['triton'] / peak:.0%} of a product's)"
            f"   torch {rates['torch']:6.0f}   {rates['triton'] / rates['torch']:5.2f} × torch's rate"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
