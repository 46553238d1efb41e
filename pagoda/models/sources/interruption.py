"""Work in several threads that can be stopped at once, also while they wait for a silent server, and time limits for answers."""

import queue
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx

_POLL_S = 0.2


class StoppedError(Exception):
    """The download was stopped. What it has received stays on disk."""


class SlowAnswerError(httpx.ReadTimeout):
    """The answer was not complete in time, though the server was never silent for long."""


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
        self._stopped.set()
        self._break_off_all()
        self._on_stop()

    def check(self) -> None:
        """Raise StoppedError if the download was stopped."""
        if self._stopped.is_set():
            raise StoppedError

    def wait(self, seconds: float) -> None:
        """Wait, or raise StoppedError as soon as the download is stopped."""
        if self._stopped.wait(seconds):
            raise StoppedError

    def _break_off_all(self) -> None:
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            _break_off(stream)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note each new connection. httpx calls this if it is the `trace` extension of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.watch(info["return_value"])

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Break the watched connections, also those of other threads, if the block takes longer. Raises SlowAnswerError then."""
        is_over = threading.Event()

        def end() -> None:
            is_over.set()
            self._break_off_all()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        slow = SlowAnswerError(f"no complete answer within {seconds:g} s")
        try:
            yield
        except httpx.TransportError:
            if is_over.is_set():
                raise slow from None
            raise
        finally:
            timer.cancel()
        # The end of a broken connection may look like the end of the answer.
        if is_over.is_set():
            raise slow

    def watch(self, stream: Any) -> None:
        """Note a connection, httpcore's `network_stream`, that `stop` has to break."""
        with self._lock:
            self._streams.add(stream)
            is_stopped = self._stopped.is_set()
        if is_stopped:
            _break_off(stream)


_of_clients: weakref.WeakKeyDictionary[httpx.Client, Interruption] = weakref.WeakKeyDictionary()


@contextmanager
def limited_stream(
    client: httpx.Client, url: httpx.URL | str, seconds: float, **options: Any
) -> Iterator[httpx.Response]:
    """Open a GET request whose answer must be read in the block within the time, however slowly the server sends it.

    Raises SlowAnswerError, and the other errors of `httpx.Client.stream`. One thread at a time may use the client.
    """
    interruption = _of_clients.setdefault(client, Interruption())
    extensions = {"trace": interruption.trace}
    with (
        interruption.time_limit(seconds),
        client.stream("GET", url, extensions=extensions, **options) as response,
    ):
        yield response


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
