"""Huge pages: 2 MiB of memory behind one entry of the processor's table of addresses instead of 512, so that reading weights waits less for that table."""

import ctypes
import sys
from typing import Any

import numpy as np

HUGE = 1 << 21  # bytes of a huge page on x86 and, with pages of 4 KiB, on ARM
MADV_COLLAPSE = 25  # Linux 6.1 and later: gather these pages into huge ones now; the numbers stay


def use_huge_pages(array: np.ndarray[Any, Any]) -> int:
    """Move what ``array`` holds into huge pages, at the same address; how many bytes were. 0 where the system cannot or the array is small."""
    first, end = -(-array.ctypes.data // HUGE) * HUGE, (array.ctypes.data + array.nbytes) // HUGE * HUGE
    if sys.platform != "linux" or first >= end:
        return 0
    system = ctypes.CDLL(None)
    refused = system.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_COLLAPSE)
    return 0 if refused else end - first
