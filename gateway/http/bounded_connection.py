"""An HTTP connection with limits. uvicorn's own protocol has none for data that is not yet a complete request.

The size of a request's head, the time until head and body have arrived, and the number of connections are limited.
"""

import asyncio
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.errors import ErrorKind, GatewayError, dialect_of, error_body

SLICE_BYTES = 16 * 1024
"""Bytes that are parsed at a time. Even so few may hold many small requests, each of which costs far more than its bytes."""
RESERVED_FILES = 96
"""Open files besides connections: schedulers, models' files, template processes, logs."""
MIN_BODY_BYTES = 16 * 1024
"""Bytes of a body that must arrive in each `body_timeout_s`, unless the body ends sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPLimits:
    """The limits of connections, in bytes and seconds. GatewaySettings describes each of them."""

    max_header_bytes: int = 64 * 1024
    header_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 300.0
    max_connections: int = 4096
    max_connections_per_address: int | None = None
    per_address: Counter[str] = field(default_factory=Counter)
    """Number of open connections by client address. The protocols update it."""

    @property
    def num_places(self) -> int:
        """Highest number of open connections: `max_connections`, or fewer if the process may not open enough files."""
        num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if num_files == resource.RLIM_INFINITY:
            return self.max_connections
        return min(self.max_connections, max(num_files - RESERVED_FILES, num_files // 2))


class _Phase(Enum):
    IDLE = auto()
    """No request is arriving."""
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """The request is complete and is being answered."""


class BoundedConnection(HttpToolsProtocol):
    """A connection that is closed when it exceeds a limit. The client gets an error first, unless an answer has begun.

    The limits are an attribute of the class, so each server has its own subclass.
    """

    limits: ClassVar[HTTPLimits] = HTTPLimits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unread = b""
        """Received bytes that are not parsed yet, since a pipelined request waits for its turn."""
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered, or was answered last. `cycle` is the latest request, which may be a later one."""
        self._phase = _Phase.IDLE
        self._timed_phase: _Phase | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._num_head_bytes = 0
        self._num_body_bytes = 0
        """Bytes of the body since the timer was set."""
        self._num_bytes_without_event = 0
        """Bytes that the parser has kept without reporting anything: the pieces of an unfinished header."""
        self._refusal: GatewayError | None = None
        self._address = ""
        self._idle_since_s = 0.0

    # Number of connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since_s = time.monotonic()  # the event loop's clock is too coarse to order connections
        self._address = self.client[0] if self.client else ""
        self.limits.per_address[self._address] += 1
        per_address = self.limits.max_connections_per_address
        if per_address is not None and self.limits.per_address[self._address] > per_address:
            self._refuse(
                ErrorKind.TOO_MANY_CONNECTIONS,
                f"More than {per_address} connections are open from one address. Close some and retry.",
            )
        elif len(self.connections) > self.limits.num_places and not self._make_room():
            self._refuse(ErrorKind.TOO_MANY_CONNECTIONS, "All connections of this server are in use. Retry later.")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        self._leave_answered()
        self.limits.per_address[self._address] -= 1
        if not self.limits.per_address[self._address]:
            del self.limits.per_address[self._address]
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    @property
    def _is_idle(self) -> bool:
        """True if no request is being read or answered. Data before the end of a head is not a request yet."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return not is_answering and self._phase in (_Phase.IDLE, _Phase.HEAD) and not self.transport.is_closing()

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest. Return False if none is idle."""
        idle = (each for each in self.connections if isinstance(each, BoundedConnection) and each is not self)
        longest = min((each for each in idle if each._is_idle), key=lambda each: each._idle_since_s, default=None)
        if longest is None:
            return False
        longest.transport.abort()  # close() would wait until the client has read everything
        self.connections.discard(longest)
        return True

    # Received data

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._parse_unread()

    def _parse_unread(self) -> None:
        """Parse slices until one holds a pipelined request. The rest is parsed, and more is read, when its turn comes."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
            self._parse(data)
        if self._unread and not self.transport.is_closing():
            self.flow.pause_reading()

    def _resume_parsing(self) -> None:
        """Resume reading and parsing, since all parsed requests are answered."""
        self.flow.resume_reading()  # first, since parsing may pause it again
        self._parse_unread()

    def _parse(self, data: bytes) -> None:
        before = (self._phase, self._num_head_bytes, self._num_body_bytes)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._phase in (_Phase.HEAD, _Phase.BODY) and before == (
            self._phase,
            self._num_head_bytes,
            self._num_body_bytes,
        ):
            self._num_bytes_without_event += len(data)
            if self._num_bytes_without_event > self.limits.max_header_bytes:
                self._refuse(ErrorKind.HEADERS_TOO_LARGE, self._too_large())
                return
        else:
            self._num_bytes_without_event = 0
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return True to keep the connection open after the client has closed its side: it may still read, or it may have left.

        Only requests that are cheap to answer are still answered.
        """
        is_asking = self._phase is _Phase.ANSWER and not self.cycle.response_complete
        if not is_asking or self.cycle.scope["method"] not in ("GET", "HEAD"):
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._num_head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = _Phase.IDLE if self.cycle.response_complete else _Phase.ANSWER
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] == "1.1" else _unchunked(app, cycle))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since_s = time.monotonic()
        if self._phase is _Phase.ANSWER and self.cycle.response_complete:
            self._phase = _Phase.IDLE
        self._watch()
        if self.pipeline or self._unread:
            self.flow.pause_reading()
        if self._unread and not self.pipeline:
            self.loop.call_soon(self._resume_parsing)

    # Limits

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > self.limits.max_header_bytes:
            self._refusal = GatewayError(ErrorKind.HEADERS_TOO_LARGE, self._too_large())
            raise self._refusal  # stops the parser; then uvicorn calls send_400_response

    def _too_large(self) -> str:
        return f"The request line and headers are larger than the limit of {self.limits.max_header_bytes} bytes."

    def _watch(self) -> None:
        """Start the timer of the current phase, unless it is running. Data that arrives does not restart it."""
        if self._timed_phase is self._phase and self._timer is not None:
            return
        self._cancel_timer()
        if self._phase is _Phase.ANSWER or self.timeout_keep_alive_task is not None:
            return
        self._timed_phase = self._phase
        self._num_body_bytes = 0
        seconds = self.limits.body_timeout_s if self._phase is _Phase.BODY else self.limits.header_timeout_s
        self._timer = self.loop.call_later(seconds, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._phase is _Phase.BODY:
            if self._num_body_bytes >= MIN_BODY_BYTES or self.flow.read_paused or self._unread:
                self._watch()
            else:
                self._refuse(
                    ErrorKind.TIMED_OUT,
                    f"The request body arrives too slowly: less than {MIN_BODY_BYTES} bytes in {self.limits.body_timeout_s:g} s.",
                )
        elif is_answering:
            self._watch()  # the client reads an answer while it sends its next request
        elif self._phase is _Phase.HEAD:
            self._refuse(
                ErrorKind.TIMED_OUT, f"The request headers did not arrive within {self.limits.header_timeout_s:g} s."
            )
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_timers(self) -> None:
        self._cancel_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()

    # Refusals

    def _refuse(self, kind: ErrorKind, message: str) -> None:
        self._refusal = GatewayError(kind, message)
        self.send_400_response(message)

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request in the form of the API that its path belongs to, unless another answer has begun."""
        self._cancel_timers()
        error = self._refusal or GatewayError(ErrorKind.INVALID_REQUEST, msg)
        answered = self._answered
        if answered is None or not answered.response_started or answered.response_complete:
            path = bytes(getattr(self, "url", b"")).partition(b"?")[0].decode("latin-1")
            body = orjson.dumps(error_body(error, dialect_of(path)))
            head = [
                STATUS_LINE[error.http_status],
                b"content-type: application/json\r\ncontent-length: ",
                str(len(body)).encode(),
                b"\r\nconnection: close\r\n\r\n",
            ]
            self.transport.write(b"".join([*head, body]))
        self._leave_answered()
        self.transport.close()

    def _leave_answered(self) -> None:
        """Cancel the connection's requests: their client has left."""
        self.pipeline.clear()
        for cycle in (self._answered, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


def http_protocol(limits: HTTPLimits) -> type[BoundedConnection]:
    """Return the protocol class for a server with these limits."""
    return type("LimitedHTTPProtocol", (BoundedConnection,), {"limits": limits})


def _unchunked(app: ASGIApp, cycle: RequestResponseCycle) -> Any:
    """Return an app whose answers of unknown length end with the connection: HTTP/1.0, nginx's default, has no chunks."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_open_ended = False

        async def send_unchunked(message: Message) -> None:
            nonlocal is_open_ended
            if message["type"] == "http.response.start":
                is_open_ended = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if is_open_ended:
                cycle.chunked_encoding = False
                cycle.keep_alive = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return answer
