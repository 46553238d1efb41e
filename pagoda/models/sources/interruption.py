"""Work in several threads that can be stopped at once, also while they wait for a silent server."""

import queue
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

_POLL_S = 0.2


class StoppedError(Exception):
    """The download was stopped. What it has received stays on disk."""


class Interruption:
    """The switch of one download. It ends waits, and breaks the open connections of the requests that it watches."""

    def __init__(self, on_stop: Callable[[], None] = lambda: None) -> None:
        """Call `on_stop` when the download is stopped, possibly several times."""
        self._on_stop = on_stop
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
        self._on_stop()

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


def run_in_threads(work: Callable[[], None], num_threads: int, interruption: Interruption) -> None:
    """Run `work` in each of the threads. The first error, also one of this thread such as Ctrl-C, stops all and is raised."""
    errors: list[BaseException] = []
    # A queue, unlike a thread's `join` and a semaphore, stays intact if Ctrl-C interrupts a wait for it.
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work()
        except StoppedError:
            pass
        except BaseException as error:
            errors.append(error)
            interruption.stop()
        finally:
            ended.put(None)

    # Daemons, because a process that ends need not wait for a silent server: what was received is on disk.
    threads = [threading.Thread(target=run, name=f"download-{number}", daemon=True) for number in range(num_threads)]
    try:
        for thread in threads:
            thread.start()
        num_ended = 0
        while num_ended < num_threads:
            # With a time limit, because a signal just before the wait does not end it.
            with suppress(queue.Empty):
                ended.get(timeout=_POLL_S)
                num_ended += 1
    finally:
        interruption.stop()
        for thread in threads:
            if thread.is_alive():
                thread.join()
    if errors:
        raise errors[0]


def _break_off(stream: Any) -> None:
    # A shutdown wakes a thread that reads from the socket; closing the socket would not.
    with suppress(OSError):
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
