"""The processes that a benchmark starts: running them, and measuring their processor time and memory."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psutil

READY_DEADLINE_S = 600.0


@contextlib.contextmanager
def python_module(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[psutil.Popen]:
    """Run `python -m module` while the block runs and yield its process. Its stdout is dropped, its stderr is inherited."""
    command = [sys.executable, "-m", module, *arguments]
    with psutil.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time of all threads so far, in user mode and in the kernel."""
    times = process.cpu_times()
    return times.user + times.system


def tier_process(tier: str) -> psutil.Process:
    """Return the `python -m TIER` process among this process's descendants. Raises SystemExit if there is none."""
    for process in psutil.Process().children(recursive=True):
        command = process.cmdline()
        if "-m" in command[:-1] and command[command.index("-m") + 1] == tier:
            return process
    raise SystemExit(f"No {tier} process was started.")


def peak_bytes(process: psutil.Process) -> int:
    """Return the peak of resident memory, as counted by the Linux kernel."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes] | psutil.Popen, url: str) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"The server exited with status {process.returncode}; its output is above.")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"The server was not ready within {READY_DEADLINE_S:g} s.")
