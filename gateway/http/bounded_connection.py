"""A connection of HTTP within limits: uvicorn's protocol, which has none of its own for what arrives before it is a request.

One connection may take only so many bytes and so much time for a request's head, only so much time for its body, and one place.
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
"""What is parsed at a time: so many requests may be in it, each of which costs far more than its bytes."""
# Beside those of connections: the scheduler, models' files, template processes, logs.
RESERVED_FILES = 96
MIN_BODY_BYTES = 16 * 1024
"""At least so much of a body must arrive in each `body_timeout_s`, if that is not its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPLimits:
    """Seconds and bytes. GatewaySettings says what each one means."""

    max_header_bytes: int = 64 * 1024
    header_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 300.0
    max_connections: int = 4096
    max_connections_per_address: int | None = None
    per_address: Counter[str] = field(default_factory=Counter)
    """Open connections; the protocols keep it."""

    @property
    def num_places(self) -> int:
        """Connections that may be open at once. The process's limit of open files leaves room for those only."""
        num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if num_files == resource.RLIM_INFINITY:
            return self.max_connections
        return min(self.max_connections, max(num_files - RESERVED_FILES, num_files // 2))


class _Phase(Enum):
    IDLE = auto()
    """Between requests, or before the first."""
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """The request is complete."""


class BoundedConnection(HttpToolsProtocol):
    """Subclasses carry the limits. Where a limit is passed the client hears of it, if no answer has begun, and it is closed."""

    limits: ClassVar[HTTPLimits] = HTTPLimits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unread = b""
        """Arrived, but not parsed while a pipelined request waits for its turn."""
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered, or was last. Pipelined ones stand behind it, and `cycle` is the latest of them."""
        self._phase = _Phase.IDLE
        self._timed_phase: _Phase | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._num_head_bytes = 0
        self._num_body_bytes = 0
        """Since the timer was set."""
        self._num_bytes_without_event = 0
        """The parser joins the pieces of a header that has no end yet."""
        self._refusal: GatewayError | None = None
        self._address = ""
        self._idle_since_s = 0.0

    # The connection's place

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since_s = time.monotonic()  # the loop's own clock is too coarse to order connections
        self._address = self.client[0] if self.client else ""
        self.limits.per_address[self._address] += 1
        per_address = self.limits.max_connections_per_address
        if per_address is not None and self.limits.per_address[self._address] > per_address:
            self._refuse(ErrorKind.TOO_MANY_CONNECTIONS, f"More than {per_address} connections from one address.")
        elif len(self.connections) > self.limits.num_places and not self._make_room():
            self._refuse(ErrorKind.TOO_MANY_CONNECTIONS, "All connections of this server are in use.")
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
        """Whether no request is being read or answered. One whose head is not complete is no request yet."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return not is_answering and self._phase in (_Phase.IDLE, _Phase.HEAD) and not self.transport.is_closing()

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False where none is idle."""
        idle = (each for each in self.connections if isinstance(each, BoundedConnection) and each is not self)
        longest = min((each for each in idle if each._is_idle), key=lambda each: each._idle_since_s, default=None)
        if longest is None:
            return False
        longest.transport.abort()  # closing waits for what a client does not read
        self.connections.discard(longest)
        return True

    # What arrives

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._parse_unread()

    def _parse_unread(self) -> None:
        """Parse up to a slice with a pipelined request. What stands behind it is parsed when its turn has come; no more is read."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
            self._parse(data)
        if self._unread and not self.transport.is_closing():
            self.flow.pause_reading()

    def _go_on(self) -> None:
        """Read and parse more, since all that was parsed is answered."""
        self.flow.resume_reading()  # first, so that what is parsed may pause it
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
        """Answer only cheap requests of a client that sends no more: it may still read, or it may have left."""
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
            self.loop.call_soon(self._go_on)

    # Limits

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > self.limits.max_header_bytes:
            self._refusal = GatewayError(ErrorKind.HEADERS_TOO_LARGE, self._too_large())
            raise self._refusal  # the parser stops, and uvicorn calls send_400_response

    def _too_large(self) -> str:
        return f"The request's line and headers have more than {self.limits.max_header_bytes} bytes."

    def _watch(self) -> None:
        """Time the phase that the connection is in. Data does not renew the time of a phase."""
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
                self._refuse(ErrorKind.TIMED_OUT, f"The body did not arrive: {self.limits.body_timeout_s:g} s passed.")
        elif is_answering:
            self._watch()  # the next request's head, whose client reads an answer meanwhile
        elif self._phase is _Phase.HEAD:
            self._refuse(ErrorKind.TIMED_OUT, f"The headers did not arrive in {self.limits.header_timeout_s:g} s.")
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
        """Answer what is no request, in the shape of the API that was asked, unless another answer has begun."""
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
        """Tell the requests of this connection that their client has left."""
        self.pipeline.clear()
        for cycle in (self._answered, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


def http_protocol(limits: HTTPLimits) -> type[BoundedConnection]:
    """Return the protocol class of a server with these limits."""
    return type("LimitedHTTPProtocol", (BoundedConnection,), {"limits": limits})


def _unchunked(app: ASGIApp, cycle: RequestResponseCycle) -> Any:
    """End an answer of unknown length with the connection, since HTTP/1.0 (nginx's default upstream) has no chunks."""

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
