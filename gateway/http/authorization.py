"""The scopes that API keys need for each path, and the middleware that checks them.

Any path that is not listed, also an unknown one, needs the scope `inference`.
"""

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as RequestScope

from gateway.errors import ErrorKind, GatewayError, error_response
from pagoda.api_keys.key_file import Scope
from pagoda.api_keys.keyring import KeyRefusedError, Keyring, ScopeMissingError

logger = logging.getLogger(__name__)

# Paths of probes, and the path with which Ollama's clients check that a server is running.
OPEN_PATHS = frozenset({"/", "/health", "/ping", "/ready"})
ADMIN_PATHS = frozenset(
    {
        "/api/copy",
        "/api/create",
        "/api/delete",
        "/api/pull",
        "/api/push",
        "/metrics",
        "/queue",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    }
)
_ADMIN_PREFIXES = ("/api/blobs/",)


def needed_scope(path: str) -> Scope | None:
    """Return the scope that the path needs, or None if it needs no key."""
    if path in OPEN_PATHS:
        return None
    return Scope.ADMIN if path in ADMIN_PATHS or path.startswith(_ADMIN_PREFIXES) else Scope.INFERENCE


class RequireKey:
    """A middleware that refuses requests whose API key lacks the scope that the path needs.

    The key is a bearer token or the header `X-API-Key`. The key's owner becomes the request's `state.caller`.
    """

    def __init__(self, app: ASGIApp, *, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: RequestScope, receive: Receive, send: Send) -> None:
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


def _offered_key(scope: RequestScope) -> bytes | None:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token if scheme.lower() == "bearer" else headers.get("x-api-key")
    return None if key is None else key.strip().encode("latin-1")
