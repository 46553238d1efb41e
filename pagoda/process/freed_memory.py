"""Gives freed memory back to the system. The C library keeps much of it, below what was allocated later and still lives.

Where the C library knows no such function, nothing happens.
"""

import ctypes
from contextlib import suppress

# glibc's numbers, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
MAX_KEPT_BYTES = 512 * 1024
MAX_ARENAS = 2


def return_freed_memory() -> None:
    """After work that took a lot and left little."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_little_freed_memory() -> None:
    """For a process whose many threads now and then take a lot for a moment. To be called before there are threads.

    Without it each thread has a part of the heap of its own, which keeps what the thread once needed, and what is large enough to
    be mapped alone is not any more after the first such block was freed.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, MAX_ARENAS)
        library.mallopt(_MMAP_THRESHOLD, MAX_KEPT_BYTES)
        library.mallopt(_TRIM_THRESHOLD, MAX_KEPT_BYTES)
