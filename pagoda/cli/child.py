"""A child process in its own session, with its output in a log file. On Linux it cannot outlive its parent."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pagoda.process.ending import EXIT_CODE_MEANINGS

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCommand:
    """A program to run. Secrets belong in `environment`, because every user of the machine can read arguments."""

    name: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running child process."""

    def __init__(self, command: ChildCommand, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process

    @classmethod
    async def start(cls, command: ChildCommand) -> "Child":
        """Start the process; its output is appended to the log. Its own session keeps Ctrl-C of the terminal from it."""
        with _open_log(command.log) as log:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **command.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        return cls(command, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the number of the signal that ended the process."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and after `grace_s` seconds SIGKILL to the whole session."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _open_log(path: Path) -> BinaryIO:
    """Open a log that only its owner may read, because it names tenants and models. Also tightens an existing file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def _die_with_parent(parent_pid: int) -> Callable[[], None] | None:
    """Return a function for the child that makes Linux kill it when its parent dies. None on other systems."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: between fork and exec only calls that take no lock are safe.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def request_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # The parent died before the request.
            os._exit(1)

    return request_signal


def describe_exit(code: int) -> str:
    """Return a description such as `exit code 1`, `exit code 70: its device was lost` or `SIGKILL`."""
    if code < 0:
        return signal.Signals(-code).name
    meaning = EXIT_CODE_MEANINGS.get(code)
    return f"exit code {code}: {meaning}" if meaning else f"exit code {code}"
