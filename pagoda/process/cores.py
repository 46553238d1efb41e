"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Fewer than the machine has where the process is confined to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
