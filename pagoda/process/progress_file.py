"""A small file by which a process tells its parent how far a long piece of work has come: two numbers, "completed total"."""

import os
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 0.1
"""Shortest time between two writes."""


def write_progress(path: Path) -> Callable[[int, int], None]:
    """Return a function that writes the progress. A file that cannot be written is no reason to end the work."""
    next_s = 0.0

    def write(completed: int, total: int) -> None:
        nonlocal next_s
        if (now_s := time.monotonic()) < next_s and completed < total:
            return
        next_s = now_s + INTERVAL_S
        new = path.with_name(f"{path.name}.new")
        try:
            new.touch(mode=0o600)
            new.write_text(f"{completed} {total}")
            os.replace(new, path)
        except OSError:
            pass

    return write


def read_progress(path: Path) -> tuple[int, int] | None:
    """Return the completed and the total work; None if there is no progress yet."""
    try:
        completed, total = map(int, path.read_text().split())
    except (OSError, ValueError):
        return None
    return completed, total
