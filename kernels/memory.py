"""Memory that is freed stays with the process, for the next array.

A training step makes and frees the same arrays over and over. glibc gives large ones back to the system when they are
freed, and the system hands out zeroed pages when they are made again, one page fault for each 4 KB that is touched:
on small nets a tenth of a step. Here glibc is told to keep what it has. The process holds on to its peak, no more.

Whoever sets MALLOC_... variables or GLIBC_TUNABLES decides for himself; other C libraries are left alone.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed() -> bool:
    """Whether freed memory will be kept from now on."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "GLIBC_TUNABLES" in os.environ:
        return False
    # No mapping of its own for any array, and no threshold above which the end of the heap is given back.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
