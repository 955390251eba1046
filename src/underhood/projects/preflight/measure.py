"""A check of this machine: what it is, and the two limits that every later figure is held against, arithmetic and reading memory. Nothing is printed."""

import os
import platform
from collections.abc import Callable
from typing import Any

import torch

from underhood.lab.timing import best_of, matmul_gflop_per_s
from underhood.scalar.warmup import dot

SECONDS = 6  # about
Figures = dict[str, Any]
READ_BYTES = 2**29  # well above what the caches of a processor hold
TERMS = 1_000_000  # of our own dot product; torch's reads two arrays of READ_BYTES / 2


def measure() -> Figures:
    """Versions, cores and memory; float32 products of 2048 × 2048 matrices and sums over 512 MiB, on one thread and on all; our ``dot`` beside torch's."""
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    numbers = [1.0] * TERMS
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cores": cores,
        "threads_of_torch": threads,
        "matmul_gflop_per_s_one_thread": on_threads(1, lambda: matmul_gflop_per_s(2048)),
        "matmul_gflop_per_s_all_cores": on_threads(cores, lambda: matmul_gflop_per_s(2048)),
        "read_gb_per_s_one_thread": on_threads(1, read_gb_per_s),
        "read_gb_per_s_all_cores": on_threads(cores, read_gb_per_s),
        "ns_per_term_of_dot": best_of(lambda: dot(numbers, numbers)) / TERMS * 1e9,
        "ns_per_term_of_torch_dot": on_threads(1, torch_dot_ns_per_term),
    }


def on_threads(n: int, run: Callable[[], float]) -> float:
    """What ``run`` gives with torch on ``n`` threads; torch has its own number of threads again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        return run()
    finally:
        torch.set_num_threads(before)


def read_gb_per_s() -> float:
    """How fast float32 numbers come out of memory: the sum of more of them than any cache holds."""
    numbers = torch.ones(READ_BYTES // 4)
    return READ_BYTES / best_of(numbers.sum) / 1e9


def torch_dot_ns_per_term() -> float:
    """Nanoseconds that torch's dot product of two float64 arrays takes for each pair, when both come out of memory."""
    n = READ_BYTES // 16
    a, b = (torch.ones(n, dtype=torch.float64) for _ in range(2))
    return best_of(lambda: a @ b) / n * 1e9
