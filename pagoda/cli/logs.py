"""Rotation of the log files that child processes write to.

A child keeps its log open while it runs. So a log that has grown is copied to LOG.1 and then truncated. A line that is written
between the two is lost.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

DEFAULT_MAX_BYTES = 20 * 1024 * 1024
LOOK_INTERVAL_S = 2.0


def older(log: Path) -> Path:
    """Return the path of the older part of a log."""
    return log.with_name(f"{log.name}.1")


def begin_anew(log: Path) -> None:
    """Rename the log to its older part. No process may have it open."""
    with contextlib.suppress(FileNotFoundError):
        log.replace(older(log))


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a child's log, or none if it cannot be read."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").splitlines()[-count:]
    return []


async def keep_bounded(logs: Sequence[Path], max_bytes: int, say: Callable[[str], None]) -> None:
    """Shorten each log that has grown beyond `max_bytes`, until cancelled. Each error is reported once."""
    told: set[str] = set()
    while True:
        for log in logs:
            try:
                await asyncio.to_thread(shorten, log, max_bytes)
            except OSError as error:
                if (line := f"The log {log} could not be shortened: {error.strerror or error}.") not in told:
                    told.add(line)
                    say(line)
        await asyncio.sleep(LOOK_INTERVAL_S)


def shorten(log: Path, max_bytes: int) -> bool:
    """Move the last `max_bytes` of a longer log, in whole lines, to its older part; truncate it. Return True if it was longer."""
    try:
        with log.open("r+b") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes <= max_bytes:
                return False
            file.seek(num_bytes - max_bytes - 1)
            file.readline()
            with older(log).open("wb") as kept:
                shutil.copyfileobj(file, kept)
            file.truncate(0)
            return True
    except FileNotFoundError:
        return False  # The log was deleted; its child still writes to the deleted file.
