"""numba's threads beside torch's, which come from one OpenMP library where both have it.

numba sets that library's number of threads to that of the cores when its own start, and torch's would be that number from then on; so they are started
here, and torch's number is put back.
"""

import numba
import torch

STARTED: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def start() -> None:
    """Start numba's threads and leave torch its own number."""
    before = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(before)


def same_as_torch() -> int:
    """Have numba use as many threads as torch, of those that it started; how many."""
    threads = min(torch.get_num_threads(), STARTED)
    numba.set_num_threads(threads)
    return threads


start()
