"""A switch that stops downloads in other threads at once, also those that wait for a silent server."""

import socket
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class StoppedError(Exception):
    """The download was stopped. What it has received stays on disk."""


class Interruption:
    """The switch of one download. It ends waits, and breaks the open connections of the requests that it watches."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()

    def stop(self) -> None:
        """Stop the download, and break its connections."""
        with self._lock:
            self._stopped.set()
            streams = list(self._streams)
        for stream in streams:
            _break_off(stream)

    def check(self) -> None:
        """Raise StoppedError if the download was stopped."""
        if self._stopped.is_set():
            raise StoppedError

    def wait(self, seconds: float) -> None:
        """Wait, or raise StoppedError as soon as the download is stopped."""
        if self._stopped.wait(seconds):
            raise StoppedError

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note each new connection. httpx calls this if it is the `trace` extension of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.watch(info["return_value"])

    def watch(self, stream: Any) -> None:
        """Note a connection, httpcore's `network_stream`, that `stop` has to break."""
        with self._lock:
            self._streams.add(stream)
            is_stopped = self._stopped.is_set()
        if is_stopped:
            _break_off(stream)


def _break_off(stream: Any) -> None:
    # A shutdown wakes a thread that reads from the socket; closing the socket would not.
    with suppress(OSError):
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
