"""What this process takes of its machine: the cores and the memory that it may use, and memory that it gives back.

The C library keeps much of what is freed, below what was allocated later and still lives. Where it knows no function for this,
nothing happens.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

# glibc's numbers, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
MAX_KEPT_BYTES = 512 * 1024
MAX_ARENAS = 2

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits."""


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than the machine has where the process is confined to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_available_bytes() -> int:
    """Return how much memory this process can still take: the machine's, or less where a container is limited."""
    return min([_machine_available_bytes(), *_container_available_bytes()])


def _machine_available_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    # Elsewhere than on Linux all memory is the best that Python knows.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_available_bytes() -> list[int]:
    """Nothing where there is no limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used_bytes = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return []
    if limit == "max":
        return []
    # The kernel counts cached files as used, and gives them up when memory is asked for.
    return [max(0, int(limit) - used_bytes + int(statistics.get("inactive_file", 0)))]


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
