"""Native code that is compiled once for all tests, and found again by the next run: a compiler takes some seconds for it.

Knows nothing about what is compiled. A library lies in a directory named after all it was made from, so none is ever out of date.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / ".pytest_cache" / "native"


@contextmanager
def directory_to_compile_in() -> Iterator[Path]:
    """One process at a time: the others find what it has made."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield DIRECTORY


def give_native_code(home: Path) -> Path:
    """A worker that is started with this home looks there for it, and leaves it there."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    kernels = home / "state" / "kernels"
    kernels.parent.mkdir(parents=True, exist_ok=True)
    kernels.symlink_to(DIRECTORY)
    return home
