"""A real memory cgroup, of version 1 or 2, for one test. It needs the permission to make one below the process's own group."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagoda.process.memory import memory_groups


class MemoryGroup:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def wrap(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs `command` inside the group."""
        return ["sh", "-c", f'echo $$ > {self._directory}/cgroup.procs; exec "$@"', "sh", *command]


@contextmanager
def memory_group(name: str, limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make the group, and remove it at the end. Skip the test if that is not allowed."""
    own, is_unified = next(memory_groups())
    directory = own / name
    try:
        directory.mkdir()
        (directory / ("memory.max" if is_unified else "memory.limit_in_bytes")).write_text(str(limit_bytes))
        subprocess.run(MemoryGroup(directory).wrap(["true"]), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if directory.is_dir():
            directory.rmdir()
        pytest.skip(f"cannot make a memory cgroup: {error}")
    try:
        yield MemoryGroup(directory)
    finally:
        directory.rmdir()
