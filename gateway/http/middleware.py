"""The middlewares around every request: its id, its metrics, the shutdown, and the answer to unexpected errors.

They are plain ASGI, so that streams pass through unchanged.
"""

import contextlib
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Dialect, ErrorKind, GatewayError, dialect_of, error_response
from gateway.http.drain import Drain
from gateway.http.http_context import notes_of
from gateway.telemetry.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

UNCOUNTED = frozenset({"/metrics", "/health", "/ping", "/ready", "/version"})
_SLASHES = re.compile("/{2,}")
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestContext:
    """The outermost middleware. It gives each request an id, counts it, and answers an unexpected error with status 500.

    Every response gets the id, and the notes on what was ignored, as headers. During the shutdown each connection is closed after
    its answer, so that the client's next one reaches another gateway.
    """

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics, drain: Drain) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A client whose base URL ends in a slash asks for //api/chat.
        scope["path"] = _SLASHES.sub("/", scope["path"])
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if dialect_of(scope["path"]) is Dialect.ANTHROPIC:
                    headers["request-id"] = request_id
                headers.update(notes_of(scope))
                if self._drain.begun:
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except GatewayError as error:
            # There is nothing to send once the response has begun.
            if status is None:
                await error_response(scope["path"], error)(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("client left while sending its body", extra={"request_id": request_id})
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            if status is None:
                crash = GatewayError(ErrorKind.INTERNAL, "Internal server error.")
                await error_response(scope["path"], crash)(scope, receive, send_with_id)
        finally:
            self._count(scope, status)

    def _count(self, scope: Scope, status: int | None) -> None:
        if scope["path"] not in UNCOUNTED:
            # The path template, so that unknown paths do not become time series of their own.
            handler = getattr(scope.get("route"), "path", "none")
            status_class = "none" if status is None else f"{status // 100}xx"
            self._metrics.http_requests.labels(handler, scope["method"], status_class).inc()


class CountInProgress:
    """A middleware that counts the requests to all APIs until their last byte, and refuses them during the shutdown."""

    def __init__(self, app: ASGIApp, *, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_work = scope["type"] == "http" and scope["path"].startswith(("/v1/", "/api/"))
        with self._drain.count_request() if is_work else contextlib.nullcontext():
            await self._app(scope, receive, send)


def _request_id(offered: str | None) -> str:
    return offered if offered and _SANE_REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
