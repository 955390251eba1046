"""The machine's limits, which every other figure here is held against: matrix products and reading memory.

    python bench/machine.py [--json]

Matrix products: the best of several 2048 × 2048 products through torch, at one and two threads, in fp32 and bf16. Reading: the sum of 1 GiB of float32,
once in ordinary pages and once in huge ones where the system has them. The other benchmarks import ``line``, ``matmul``, ``isolated`` and ``quiet``.
"""

import argparse
import json
import mmap
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

FLOPS_SIDE = 2048
GIB = 1 << 30


def line(*packages: str) -> str:
    """The machine and the versions, in one line."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", *packages))
    memory = psutil.virtual_memory().total / GIB
    return f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()}; Python {platform.python_version()}, {versions}"


def processor() -> str:
    """The processor as the system names it, and what it has for matrices."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(row.partition(":")[::2] for row in text.splitlines() if ":" in row)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.machine())} ({', '.join(units)})"


def quiet() -> str:
    """Empty on a quiet machine; otherwise what else is running, to be printed beside the figures (and the row discarded)."""
    busy = psutil.cpu_percent(interval=0.5) / 100 * (os.cpu_count() or 1)
    return "" if busy < 0.2 else f"OTHER LOAD: {busy:.1f} cores were busy before this started"


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def matmul(dtype: Any, repeats: int = 1, side: int = FLOPS_SIDE) -> float:
    """GFLOP/s of the best of ``repeats`` products of two square matrices, on as many threads as torch is set to."""
    import torch

    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * side**3 / (time.perf_counter() - start) / 1e9)
    return best


def read_bandwidth(*, huge: bool, repeats: int = 3) -> float:
    """GB/s of the best of ``repeats`` sums over 1 GiB; ``huge`` asks the system for huge pages."""
    import torch

    pages = mmap.mmap(-1, GIB)
    if huge:
        pages.madvise(mmap.MADV_HUGEPAGE)
    numbers = torch.frombuffer(pages, dtype=torch.float32).fill_(1)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        numbers.sum()
        best = max(best, GIB / (time.perf_counter() - start) / 1e9)
    return best


def isolated(script: str, threads: int, job: dict[str, Any]) -> dict[str, Any]:
    """``script --one JOB`` in a process of its own with that many threads: the JSON that it prints last. Its memory is then its own too."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run([sys.executable, script, "--one", json.dumps(job)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def limits() -> dict[str, float]:
    """The table: GFLOP/s and GB/s by name."""
    import torch

    table: dict[str, float] = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            table[f"matmul {name}, GFLOP/s, {threads} threads"] = matmul(dtype, repeats=8)
        table[f"read, GB/s, {threads} threads"] = read_bandwidth(huge=False)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            table[f"read huge pages, GB/s, {threads} threads"] = read_bandwidth(huge=True)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    note, table = quiet(), limits()
    if options.json:
        print(json.dumps({"machine": line(), "note": note, **table}))
        return 0
    print(line())
    print(note, end="\n" if note else "")
    for name, value in table.items():
        print(f"{name:40} {value:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
