"""Memory of the machine: giving back what this process no longer uses."""

import ctypes
import gc


def return_free_memory() -> None:
    """What nothing refers to any more, also in circles, and what the C library keeps for the next allocation."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's own
        trim(0)
