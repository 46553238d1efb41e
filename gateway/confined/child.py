"""The gateway's handle of one confined process, which starts it, sends it requests, and ends it.

serve.py runs in that process.
"""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import orjson

from gateway.errors import unavailable

MAX_WALL_S = 120.0
"""Longest wait for an answer, in seconds. Only a stopped or starved process needs it: processor time is limited sooner."""
END_GRACE_S = 5.0
"""Seconds that a process has to end before it is killed."""
KEPT_VARIABLES = ("PATH", "TZ", "LANG", "LC_ALL", "LC_TIME", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
"""Environment variables that the process inherits. The others may contain keys and passwords."""


class ChildEndedError(Exception):
    """The error for a process that ended without an answer. `status` is as in subprocess: negative if a signal ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer of the process to one request."""

    outcome: str
    content: bytes
    cpu_s: float
    """Processor time of the request, in seconds."""
    ends: bool
    """True if the process ends after this answer."""


class ConfinedChild:
    """One process, which answers one request after another. Only one thread may use it at a time."""

    def __init__(self, module: str, arguments: tuple[float, ...], *, work: str) -> None:
        """Start `python -m module arguments`. `work` is what it is for, in errors, such as "chat templates"."""
        self.idle_since_s = time.monotonic()
        self._work = work
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        try:
            with theirs:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, *map(str, arguments)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
                    process_group=0,  # Ctrl-C in the terminal must end only the parent
                )
        except OSError as error:
            self._connection.close()
            raise unavailable(f"The process for {work} cannot be started: {error.strerror}.") from None

    def ask_process(self, request: bytes) -> Reply:
        """Send the request and return the answer. Raises ChildEndedError if the process ends without one."""
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(MAX_WALL_S):
                raise unavailable(f"The process for {self._work} did not answer within {MAX_WALL_S:g} s.")
            head = orjson.loads(self._connection.recv_bytes())
            return Reply(content=self._connection.recv_bytes(), **head)
        except (EOFError, OSError):
            raise ChildEndedError(self.end_process()) from None
        except BaseException:
            self._kill_process()
            raise

    def end_process(self) -> int:
        """Close the socket of the process, which ends it, and return its exit status."""
        self._connection.close()
        try:
            return self._process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            return self._kill_process()

    def _kill_process(self) -> int:
        self._process.kill()
        self._connection.close()
        return self._process.wait()
