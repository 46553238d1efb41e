"""Starts a `pagoda serve` of its own for a benchmark that was given no URL."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import httpx

READY_DEADLINE_S = 600.0


@contextlib.contextmanager
def own_server(model: str, arguments: Sequence[str] = ()) -> Iterator[str]:
    """The OpenAI base URL of a fresh server on a free port, stopped when the block ends."""
    port = _free_port()
    command = [sys.executable, "-P", "-m", "pagoda.cli", "serve", "--port", str(port), *arguments]
    command += ["--model", model] if model else []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"The server ended with status {process.returncode}; its reason is above.")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"The server was not ready within {READY_DEADLINE_S:g} s.")
