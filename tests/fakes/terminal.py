"""A terminal for a command under test: what it prints can be waited for, and keys can be pressed."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

ENTER, CTRL_C, CTRL_D, UP = "\r", "\x03", "\x04", "\x1b[A"
DEADLINE_S = 200.0

# Makes its standard input the terminal of its session, so that Ctrl-C is a signal to it, and becomes the command.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        # No questions to the terminal about where its cursor is: nobody would answer.
        variables = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
        command = [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, "-P", "-m", "pagoda.cli", *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True
        )
        os.close(slave)
        self._seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, text: str) -> str:
        """Wait until it is printed; what was printed up to there is taken away and returned."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self._seen:
            self._read(deadline, text)
        before, found, self._seen = self._seen.partition(text)
        return before + found

    def wait(self) -> int:
        """Until it ends; the exit status. What it still prints is read, or it could not end."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            if select.select([self._master], [], [], 0.05)[0]:
                self._read(deadline, "the end")
            assert time.monotonic() < deadline, f"it does not end; so far: {self._seen}"
        return self.process.returncode

    def _read(self, deadline: float, what: str) -> None:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"not within {DEADLINE_S:g} s: {what!r}; so far: {self._seen!r}"
        try:
            self._seen += os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # Linux's way to say that the other end is closed.
            self.process.wait(DEADLINE_S)
            assert what == "the end", f"it ended before {what!r}; it printed: {self._seen!r}"
