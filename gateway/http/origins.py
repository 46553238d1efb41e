"""The middlewares that keep foreign web pages from using this server through a visitor's browser.

A page of any site can make its visitor's browser send requests to 127.0.0.1. Such requests name the site as their `Origin`, so only
allowed origins are served (CORS). With DNS rebinding, a site's own name points to 127.0.0.1; the `Host` header shows that.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ErrorKind, GatewayError, error_response
from gateway.http.http_context import IGNORED_HEADER, TRUNCATED_HEADER

# Ollama's list: this machine with any port, and the schemes of desktop applications and editors.
_LOCAL_ORIGIN = re.compile(
    r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::\d+)?"
    r"|(?:app|file|tauri|vscode-webview|vscode-file)://.*"
)
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_EXPOSED_HEADERS = ("x-request-id", "retry-after", IGNORED_HEADER, TRUNCATED_HEADER)
LONGEST_ORIGIN = 512
"""Longest origin that is compared, in characters. A name in DNS has at most 253."""
PREFLIGHT_MAX_AGE_S = 12 * 3600


class AllowedOrigins:
    """A middleware that allows the origins of this machine and those in `more`, where `*` matches any text, and refuses others."""

    def __init__(self, app: ASGIApp, *, more: Sequence[str]) -> None:
        self._app = app
        patterns = (".*".join(map(re.escape, origin.rstrip("/").lower().split("*"))) for origin in more)
        self._more = [re.compile(pattern) for pattern in dict.fromkeys(patterns)]
        self._cors = CORSMiddleware(
            app,
            allow_origin_regex=r".*",  # only allowed origins get here
            allow_methods=["GET", "POST", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"],
            allow_headers=["*"],
            allow_private_network=True,  # Chromium asks before a public page may reach a private address
            expose_headers=_EXPOSED_HEADERS,
            max_age=PREFLIGHT_MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or _is_same(origin, headers.get("host", "")):
            await self._app(scope, receive, send)
        elif self._is_allowed(origin):
            await self._cors(scope, receive, send)
        else:
            error = GatewayError(
                ErrorKind.FORBIDDEN,
                f"Pages of {origin[:200]} may not use this server. To allow them, set PAGODA_GATEWAY_ALLOWED_ORIGINS.",
            )
            await error_response(scope["path"], error)(scope, receive, send)

    def _is_allowed(self, origin: str) -> bool:
        if len(origin) > LONGEST_ORIGIN:
            return False
        return any(pattern.fullmatch(origin.lower()) for pattern in (_LOCAL_ORIGIN, *self._more))


class LocalHostsOnly:
    """A middleware for a server on loopback that refuses requests to public host names, which DNS rebinding has led here.

    `more` are further allowed names, such as a reverse proxy's.
    """

    def __init__(self, app: ASGIApp, *, more: Sequence[str]) -> None:
        self._app = app
        self._names = frozenset({"", "localhost", socket.gethostname().lower(), *(name.lower() for name in more)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_local(host := Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, send)
            return
        error = GatewayError(
            ErrorKind.FORBIDDEN,
            f"The host name {host[:200]} is not allowed: this server listens on loopback and accepts local names only. "
            "To allow a reverse proxy's name, set PAGODA_GATEWAY_ALLOWED_HOSTS.",
        )
        await error_response(scope["path"], error)(scope, receive, send)

    def _is_local(self, host: str) -> bool:
        name = _without_port(host).lower().rstrip(".")
        if name in self._names or name.endswith(_LOCAL_SUFFIXES):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or address.is_private or address.is_unspecified


def _is_same(origin: str, host: str) -> bool:
    """Return whether the page came from this server."""
    return bool(host) and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]
