"""The real system under test: `pagoda serve` in a separate process, observed only as a user observes it."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from pagoda.rpc.sockets import scheduler_address

DEADLINE_S = 200.0

# Not seeded, because tests run in several processes.
_CHANCE = random.SystemRandom()

T = TypeVar("T")


def until(what: str, probe: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """Poll until `probe` returns a true value, and return it: another process cannot set an event of this one."""
    deadline = time.monotonic() + deadline_s
    while True:
        if value := probe():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """Return a free port below the kernel's range of ephemeral ports, so that no other process takes it before the caller."""
    while True:
        port = _CHANCE.randrange(20_000, 32_768)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


# Tests that compare answers set all sampling parameters, and no model's recommendation must change them. A later flag overrides
# this one.
NEUTRAL = ("--sampling-defaults", "neutral")


class System:
    """A running `pagoda serve`, started by the constructor. The caller calls `wait_until_ready` and `stop`."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.run_directory = home / "run" / str(self.port)
        command = [sys.executable, "-P", "-m", "pagoda.cli", "serve", "--home", str(home), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *NEUTRAL, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def scheduler_address(self) -> str:
        return scheduler_address(self.home, str(self.port))

    def wait_until_ready(self) -> None:
        until("/ready answers 200", self._is_ready)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"pagoda serve ended with {self.process.returncode}: {self.output()}")
        try:
            return httpx.get(f"{self.url}/ready", timeout=DEADLINE_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def read_banner(self) -> str:
        """Return the text that is printed once the system is ready; the deadline is the test's time limit."""
        assert self.process.stdout is not None
        lines = list(iter(self.process.stdout.readline, "Press Ctrl-C to stop.\n"))
        return "".join(lines)

    def tier(self, name: str) -> psutil.Process | None:
        """Return the child process of this tier, or None if it does not run."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if name in _command_line(child)), None)

    def kill_tier(self, name: str) -> None:
        """Kill the tier with SIGKILL, and wait until another process has replaced it."""
        victim = self.tier(name)
        assert victim is not None, f"no {name} runs"
        victim.kill()
        until(f"another {name} runs", lambda: (child := self.tier(name)) is not None and child.pid != victim.pid)

    def metric(self, name: str, **labels: str) -> float:
        return read_metric(self.url, name, **labels)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def output(self) -> str:
        """Return the whole output, once the process has ended."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return out + err

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def force_end(self) -> None:
        """End all processes that a test has left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def ready_system(home: Path, *arguments: str) -> Iterator[System]:
    system = System(home, *arguments)
    try:
        system.wait_until_ready()
        yield system
    finally:
        system.force_end()


def read_metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    text = httpx.get(f"{url}/metrics", timeout=DEADLINE_S, trust_env=False).text
    samples = re.findall(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    values = [float(value) for found, value in samples if all(label in found for label in wanted)]
    assert values, f"no {name} with {labels} in:\n{text}"
    return sum(values)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()[:5]
    except psutil.Error:  # The process has just ended.
        return []
