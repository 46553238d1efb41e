"""A terminal for a command under test. A test can wait for output and press keys."""

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

# This program makes its standard input the terminal of its session, so that Ctrl-C sends a signal, and becomes the command.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        # The command must not ask for the cursor's position: this terminal does not answer.
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
        """Wait until the text is printed; remove and return the output up to it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self._seen:
            self._read(deadline, text)
        before, found, self._seen = self._seen.partition(text)
        return before + found

    def wait(self) -> int:
        """Wait for the end and return the exit status. Output is read meanwhile: a full terminal would block the command."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            if select.select([self._master], [], [], 0.05)[0]:
                self._read(deadline, "the end")
            assert time.monotonic() < deadline, f"the command does not end; so far: {self._seen}"
        return self.process.returncode

    def _read(self, deadline: float, what: str) -> None:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"not within {DEADLINE_S:g} s: {what!r}; so far: {self._seen!r}"
        try:
            self._seen += os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # On Linux: the other end is closed.
            self.process.wait(DEADLINE_S)
            assert what == "the end", f"the command ended before {what!r}; it printed: {self._seen!r}"
