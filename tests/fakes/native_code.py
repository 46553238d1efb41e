"""Native code that is compiled once for all tests and found again by the next run, since compiling takes seconds.

The name of a library's directory is a hash of all it was made from, so no library is out of date.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / ".pytest_cache" / "native"


@contextmanager
def directory_to_compile_in() -> Iterator[Path]:
    """Yield the directory to one process at a time; the others find what that one compiled."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield DIRECTORY


def give_native_code(home: Path) -> Path:
    """Let workers with this home find and keep compiled code in the shared directory; return the home."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    kernels = home / "state" / "kernels"
    kernels.parent.mkdir(parents=True, exist_ok=True)
    kernels.symlink_to(DIRECTORY)
    return home
