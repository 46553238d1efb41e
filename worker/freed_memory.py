"""Gives freed memory back to the system. The C library keeps much of it, below what was allocated later and still lives."""

import ctypes
from contextlib import suppress


def return_freed_memory() -> None:
    """After work that took a lot and left little. Where the C library knows no such function, nothing happens."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
