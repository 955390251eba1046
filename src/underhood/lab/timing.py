"""How ``measure`` takes the time: the fastest of several runs, and the matrix product as the ceiling beside it."""

import time
from collections.abc import Callable

BUDGET_S = 0.3


def best_of(run: Callable[[], object], budget_s: float = BUDGET_S, least: int = 3) -> float:
    """Seconds of the fastest of as many runs as fit the budget, after one to warm up: other work on the machine only ever makes a run slower."""
    run()
    times: list[float] = []
    while len(times) < least or sum(times) < budget_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_gflop_per_s(n: int = 1024) -> float:
    """What one large float32 product of torch reaches here, on the threads that torch has: the ceiling of everything made of products."""
    import torch

    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    return 2 * n**3 / best_of(lambda: a @ a) / 1e9
