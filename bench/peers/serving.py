"""A server process under comparison."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.peers.errors import PeerError

READY_DEADLINE_S = 900.0
STOP_DEADLINE_S = 60.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The command and environment of a server, without its port."""

    command: Sequence[str]
    ready_path: str
    """Path that answers with success once the server is ready."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables to add to our environment."""


class ServerProcess:
    def __init__(self, launch: Launch, port: int, log: Path) -> None:
        """Start the server and wait until it is ready. Raises PeerError with the end of its output if it is not."""
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._log = log
        environment = {**os.environ, **launch.environment}
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # Processes of the previous server may still write to the old file.
        with log.open("wb") as output:
            command = [*launch.command, "--port", str(port)]
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            self._wait_until_ready(f"http://127.0.0.1:{port}{launch.ready_path}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and all processes that it started; any left would compete with the next server."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_DEADLINE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_until_ready(self, url: str) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PeerError.from_output(f"exited with status {self._process.returncode}", self._log_text())
            with suppress(httpx.TransportError):
                if httpx.get(url, trust_env=False).is_success:
                    return
            time.sleep(_POLL_S)
        raise PeerError.from_output(f"not ready after {READY_DEADLINE_S:g} s", self._log_text())

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace")
