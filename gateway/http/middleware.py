"""What happens around every request, whatever its route: its id, its count, the key, the drain, and the last error net.

Plain ASGI, so that streams pass through untouched. Knows nothing about bodies.
"""

import contextlib
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ErrorKind, GatewayError, dialect_of, error_body
from gateway.http.drain import Drain
from gateway.http.reply_notes import notes_of
from gateway.http.scopes import needed_scope
from gateway.telemetry.metrics import GatewayMetrics
from pagoda.api_keys.keyring import KeyRefusedError, Keyring, ScopeMissingError

logger = logging.getLogger(__name__)

UNCOUNTED = frozenset({"/metrics", "/health", "/ping", "/ready", "/version"})
_SLASHES = re.compile("/{2,}")
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def error_response(path: str, error: GatewayError) -> JSONResponse:
    return JSONResponse(error_body(error, dialect_of(path)), status_code=error.http_status, headers=error.headers)


class RequestContext:
    """Outermost: gives the request its id, puts the id on every response, counts it, and turns a crash into a 500.

    The response also tells what was done otherwise than the request asked.

    While the process ends, each connection is closed behind its answer: the next one finds another gateway.
    """

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics, drain: Drain) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A base URL that ends in a slash makes //api/chat, which means what /api/chat does.
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
                headers.update(notes_of(scope))
                if self._drain.begun:
                    headers["connection"] = "close"
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
    """A key of the scope that the path needs, as a bearer token or `X-API-Key`; whose it is travels on as `state.caller`."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            try:
                scope["state"]["caller"] = self._keyring.authorize(_offered_key(scope), needed_scope(path))
            except KeyRefusedError as refusal:
                is_known = isinstance(refusal, ScopeMissingError)
                error = GatewayError(ErrorKind.FORBIDDEN if is_known else ErrorKind.UNAUTHORIZED, str(refusal))
                logger.info(
                    "request refused",
                    extra={"request_id": scope["state"]["request_id"], "path": path[:200], "reason": error.message},
                )
                await error_response(path, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


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


def _offered_key(scope: Scope) -> bytes | None:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token if scheme.lower() == "bearer" else headers.get("x-api-key")
    return None if key is None else key.strip().encode("latin-1")
