"""One child process: started in a session of its own, its output in a log file, never outliving its parent."""

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
    """What to run. Secrets belong in `environment`: arguments are visible to everyone on the machine."""

    name: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    def __init__(self, command: ChildCommand, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process

    @classmethod
    async def start(cls, command: ChildCommand) -> "Child":
        """Append to the command's log. Its own session, so that Ctrl-C in the terminal reaches the parent alone."""
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
        """The exit code; minus the signal's number where one ended it."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL to its whole session if it has not ended within the grace."""
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
    """A log names tenants and models: it is its owner's alone, also where an older one was not."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def _die_with_parent(parent_pid: int) -> Callable[[], None] | None:
    """Linux kills the child when the parent is gone, even by SIGKILL. Elsewhere only an orderly stop ends it."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: between fork and exec only calls that need no lock are safe.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def request_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # The parent was gone before the request.
            os._exit(1)

    return request_signal


def describe_exit(code: int) -> str:
    """`exit code 1`, `exit code 70: its device was lost`, or `SIGKILL`."""
    if code < 0:
        return signal.Signals(-code).name
    meaning = EXIT_CODE_MEANINGS.get(code)
    return f"exit code {code}: {meaning}" if meaning else f"exit code {code}"
