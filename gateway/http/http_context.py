"""The data of an HTTP request besides its body: its id, its caller, its trace, and notes for the headers of its response.

The notes say in which points the server did not follow the request.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from fastapi import Request
from starlette.types import Scope

from gateway.telemetry.tracing import UNTRACED_REQUEST, RequestTrace
from pagoda.api_keys.keyring import NOBODY, Caller

IGNORED_HEADER = "x-pagoda-ignored"
TRUNCATED_HEADER = "x-pagoda-truncated"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPContext:
    """The data that a request for text takes over from its HTTP request."""

    request_id: str
    caller: Caller = NOBODY
    trace: RequestTrace = UNTRACED_REQUEST


def http_context(request: Request) -> HTTPContext:
    """Return the data that the middlewares have stored in the request."""
    state = request.state
    return HTTPContext(request_id=state.request_id, caller=state.caller, trace=state.trace)


def notes_of(scope: Scope) -> dict[str, str]:
    """Return the headers that this request's response gets. Callers may add to them."""
    return cast(dict[str, str], scope["state"].setdefault("reply_notes", {}))


def note_ignored_fields(request: Request, paths: Sequence[str]) -> None:
    """Name the fields of the body that had no effect, in a response header and in the log."""
    noted = notes_of(request.scope).get(IGNORED_HEADER)
    _note(request, IGNORED_HEADER, ", ".join(filter(None, (noted, *paths))), "fields ignored")


def note_truncation(request: Request, what: str) -> None:
    """Say how much of a long prompt was dropped, in a response header and in the log."""
    _note(request, TRUNCATED_HEADER, what, "prompt truncated")


def _note(request: Request, header: str, value: str, event: str) -> None:
    notes_of(request.scope)[header] = value
    extra = {"request_id": request.state.request_id, "path": request.url.path[:200], "what": value}
    logger.info(event, extra=extra)
