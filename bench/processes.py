"""The processes that a benchmark starts beside itself: one that serves, how much processor time it used, and its end.

Knows nothing about what they serve.
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psutil

READY_DEADLINE_S = 600.0


@contextlib.contextmanager
def python_module(module: str, *arguments: str) -> Iterator[psutil.Popen]:
    """`python -m module` in the background, told to stop when the block ends. What it says goes to stderr only if it is wrong."""
    command = [sys.executable, "-m", module, *arguments]
    with psutil.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def cpu_s(process: psutil.Process) -> float:
    """Processor time of all its threads so far, in the kernel too."""
    times = process.cpu_times()
    return times.user + times.system


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes] | psutil.Popen, url: str) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"The server ended with status {process.returncode}; its reason is above.")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"The server was not ready within {READY_DEADLINE_S:g} s.")
