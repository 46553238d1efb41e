"""Cores and memory that this process may use, and functions that return freed memory to the system.

The C library keeps much of the freed memory, because later allocations lie above it. If it lacks the functions to return memory,
nothing happens.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from pagoda.process.memory import available_memory

# glibc's numbers, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
MAX_KEPT_BYTES = 512 * 1024
MAX_ARENAS = 2


def usable_cores() -> int:
    """Return how many cores this process may use, which are fewer than the machine's if it is pinned to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_available_bytes() -> int:
    """Return how much memory this process can still allocate: what the machine has, or less in a limited container."""
    return available_memory().num_bytes


def return_freed_memory() -> None:
    """Return freed memory to the system. Call it after work that needed much memory and released it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def return_memory(address: int, num_bytes: int) -> None:
    """Return the whole pages in this range of a private mapping. They read as zeros afterwards, and take memory when written."""
    if sys.platform != "linux":
        return  # Elsewhere the call keeps the content, and the memory.
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if length > 0:
        _madvise()(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


@cache
def _madvise() -> Callable[..., int]:
    function: Callable[..., int] = ctypes.CDLL(None).madvise
    return function


def keep_little_freed_memory() -> None:
    """Let the C library keep less freed memory. Call it before threads start, if they will need much memory for short times.

    Otherwise each thread gets its own heap, which keeps the most that the thread ever needed; and after the first large block was
    freed, large blocks come from the heap instead of a mapping of their own.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, MAX_ARENAS)
        library.mallopt(_MMAP_THRESHOLD, MAX_KEPT_BYTES)
        library.mallopt(_TRIM_THRESHOLD, MAX_KEPT_BYTES)
