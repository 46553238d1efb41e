"""The log files of children, which write to them themselves: what is kept of them, and how large they may become.

A child's file is open for as long as the child lives, so a log that has grown is copied to LOG.1 and then emptied. A line that is
written between the two is lost.
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
    """Where the part before it is kept."""
    return log.with_name(f"{log.name}.1")


def begin_anew(log: Path) -> None:
    """Keep what is there as the older part. For a log that no process has open."""
    with contextlib.suppress(FileNotFoundError):
        log.replace(older(log))


def last_lines(log: Path, count: int) -> list[str]:
    """The end of a child's log, to show why it ended or what holds it up."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").splitlines()[-count:]
    return []


async def keep_bounded(logs: Sequence[Path], max_bytes: int, say: Callable[[str], None]) -> None:
    """Shorten each log that has outgrown `max_bytes`, until cancelled."""
    told: set[str] = set()
    while True:
        for log in logs:
            try:
                await asyncio.to_thread(shorten, log, max_bytes)
            except OSError as error:
                if (line := f"The log {log} cannot be shortened: {error.strerror or error}.") not in told:
                    told.add(line)
                    say(line)
        await asyncio.sleep(LOOK_INTERVAL_S)


def shorten(log: Path, max_bytes: int) -> bool:
    """Move the last `max_bytes` of a log that is longer to its older part, whole lines, and empty it. Whether it was longer."""
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
        return False  # Somebody has deleted it; its child writes on into nowhere.
