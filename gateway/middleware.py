"""What happens around every request, whatever its route: its id, its count, the key, the drain, and the last error net.

Plain ASGI, so that streams pass through untouched. Knows nothing about bodies.
"""

import contextlib
import hashlib
import hmac
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.drain import Drain
from gateway.errors import ErrorKind, GatewayError, dialect_of, error_body
from gateway.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

OPEN_WITHOUT_KEY = frozenset({"/health", "/ping", "/ready"})
UNCOUNTED = frozenset({"/metrics", "/health", "/ping", "/ready", "/version"})
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def error_response(path: str, error: GatewayError) -> JSONResponse:
    return JSONResponse(error_body(error, dialect_of(path)), status_code=error.http_status, headers=error.headers)


class RequestContext:
    """Outermost: gives the request its id, puts the id on every response, counts it, and turns a crash into a 500."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except GatewayError as error:
            # Nobody is left to hear of it when the response has begun, or when the client is gone.
            if status is None:
                await error_response(scope["path"], error)(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("client left in the middle of its body", extra={"request_id": request_id})
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            if status is None:
                crash = GatewayError(ErrorKind.INTERNAL, "Internal server error.")
                await error_response(scope["path"], crash)(scope, receive, send_with_id)
        finally:
            self._count(scope, status)

    def _count(self, scope: Scope, status: int | None) -> None:
        if scope["path"] not in UNCOUNTED:
            # The route's own path, so that made-up paths cannot make up time series.
            handler = getattr(scope.get("route"), "path", "none")
            status_class = "none" if status is None else f"{status // 100}xx"
            self._metrics.http_requests.labels(handler, scope["method"], status_class).inc()


class RequireKey:
    """`Authorization: Bearer KEY` on everything but the probes. Digests are compared: time tells not even the key's length."""

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._digest = _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_WITHOUT_KEY and not self._is_authorized(scope):
            error = GatewayError(ErrorKind.UNAUTHORIZED, "A valid API key is required: Authorization: Bearer KEY.")
            await error_response(scope["path"], error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(_digest(key.strip().encode("latin-1")), self._digest)


class CountInProgress:
    """Requests to the dialects are counted until their last byte, and refused while the process ends."""

    def __init__(self, app: ASGIApp, *, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_work = scope["type"] == "http" and scope["path"].startswith(("/v1/", "/api/"))
        with self._drain.request() if is_work else contextlib.nullcontext():
            await self._app(scope, receive, send)


def _request_id(offered: str | None) -> str:
    return offered if offered and _SANE_REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
