"""What this process takes of its machine: how many cores it may use, and memory that it has freed and gives back.

The C library keeps much of what is freed, below what was allocated later and still lives. Where it knows no function for this,
nothing happens.
"""

import ctypes
import os
from contextlib import suppress

# glibc's numbers, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
MAX_KEPT_BYTES = 512 * 1024
MAX_ARENAS = 2


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than the machine has where the process is confined to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def return_freed_memory() -> None:
    """Call it after work that took a lot and left little."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_little_freed_memory() -> None:
    """Call it before there are threads, in a process whose many threads now and then take a lot for a moment.

    Without it each thread has a part of the heap of its own, which keeps what the thread once needed, and what is large enough to
    be mapped alone is not any more after the first such block was freed.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, MAX_ARENAS)
        library.mallopt(_MMAP_THRESHOLD, MAX_KEPT_BYTES)
        library.mallopt(_TRIM_THRESHOLD, MAX_KEPT_BYTES)
