"""Who may use a path: the scope of an API key that each path needs, and the middleware that asks for the key.

A path that is not listed needs the scope for inference, unknown paths too.
"""

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as RequestScope

from gateway.errors import ErrorKind, GatewayError, error_response
from pagoda.api_keys.key_file import Scope
from pagoda.api_keys.keyring import KeyRefusedError, Keyring, ScopeMissingError

logger = logging.getLogger(__name__)

# Probes, and what Ollama's clients look at to see whether anyone is there.
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
    """Return the scope that the path needs, or None where it needs no key."""
    if path in OPEN_PATHS:
        return None
    return Scope.ADMIN if path in ADMIN_PATHS or path.startswith(_ADMIN_PREFIXES) else Scope.INFERENCE


class RequireKey:
    """Lets a request pass whose key, a bearer token or `X-API-Key`, has the scope that its path needs.

    Whose key it is travels on as `state.caller`.
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
