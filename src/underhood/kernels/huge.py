"""Huge pages: 2 MiB of memory behind one entry of the processor's table of addresses instead of 512, so that reading weights waits less for that table."""

import ctypes
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

HUGE = 1 << 21  # bytes of a huge page on x86 and, with pages of 4 KiB, on ARM
NEAR = 1 << 16  # arrays that lie no further apart are one stretch: what stands between was allocated with them
MADV_COLLAPSE = 25  # Linux 6.1 and later: gather these pages into huge ones now; address and contents stay


def use_huge_pages(arrays: Iterable[np.ndarray[Any, Any]]) -> int:
    """Move the memory of ``arrays`` into huge pages, at the same addresses; how many bytes were. 0 where the system cannot or there is less than a page."""
    if sys.platform != "linux":
        return 0
    whole = [(-(-start // HUGE) * HUGE, end // HUGE * HUGE) for start, end in stretches(arrays)]
    return sum(end - start for start, end in whole if start < end and _collapse(start, end))


def stretches(arrays: Iterable[np.ndarray[Any, Any]]) -> list[tuple[int, int]]:
    """First address and end of each stretch of memory that the arrays fill."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.nbytes):
        if joined and start - joined[-1][1] <= NEAR:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _collapse(start: int, end: int) -> bool:
    refused: int = ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)
    return refused == 0
