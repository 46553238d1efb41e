"""One process for chat templates as the gateway sees it: started, asked, and ended. template_process.py is what runs in it."""

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
"""For a process that is stopped or starved; its own processor time is limited much sooner."""
END_GRACE_S = 5.0
KEPT_VARIABLES = ("PATH", "TZ", "LANG", "LC_ALL", "LC_TIME", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
"""What the process gets of the gateway's environment, where there are keys and passwords too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLimits:
    """What one request to compile or render may use."""

    cpu_s: float = 2.0
    memory_bytes: int = 192 << 20
    """Address space of the process, of which Python and Jinja take 27 MiB."""
    characters: int = 1 << 22
    """Of the rendered text."""


class ChildEndedError(Exception):
    """`status` as subprocess has it: minus the signal's number where one ended the process."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    outcome: str
    content: bytes
    cpu_s: float
    ends: bool


class TemplateChild:
    """One process, which answers one request after another. Used by one thread at a time."""

    def __init__(self, limits: TemplateLimits) -> None:
        self.idle_since_s = time.monotonic()
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        numbers = (limits.cpu_s, limits.memory_bytes, limits.characters)
        try:
            with theirs:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "gateway.prompts.template_process", *map(str, numbers)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
                    process_group=0,  # Ctrl-C in the terminal is for the parent
                )
        except OSError as error:
            self._connection.close()
            raise unavailable(f"The process for chat templates cannot be started: {error.strerror}.") from None

    def ask_process(self, request: bytes) -> Reply:
        """Raises ChildEndedError where the process ends without an answer."""
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(MAX_WALL_S):
                raise unavailable(f"The chat template was not rendered within {MAX_WALL_S:g} s.")
            head = orjson.loads(self._connection.recv_bytes())
            return Reply(content=self._connection.recv_bytes(), **head)
        except (EOFError, OSError):
            raise ChildEndedError(self.end_process()) from None
        except BaseException:
            self._kill_process()
            raise

    def end_process(self) -> int:
        """Close its socket, upon which it ends, and return its status."""
        self._connection.close()
        try:
            return self._process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            return self._kill_process()

    def _kill_process(self) -> int:
        self._process.kill()
        self._connection.close()
        return self._process.wait()
