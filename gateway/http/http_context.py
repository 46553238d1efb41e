"""What travels with an HTTP request beside its body: who asks, its trace, and notes for the headers of its response.

The notes tell a client what was done otherwise than it asked.
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
    """What a request for text inherits from the HTTP request it came with."""

    request_id: str
    caller: Caller = NOBODY
    trace: RequestTrace = UNTRACED_REQUEST


def http_context(request: Request) -> HTTPContext:
    """Return what the middlewares have found out of the request."""
    state = request.state
    return HTTPContext(request_id=state.request_id, caller=state.caller, trace=state.trace)


def notes_of(scope: Scope) -> dict[str, str]:
    """Return the headers of this request's response, to be read and added to."""
    return cast(dict[str, str], scope["state"].setdefault("reply_notes", {}))


def note_ignored_fields(request: Request, paths: Sequence[str]) -> None:
    """Say in the response's header and in the log which fields of the body had no effect."""
    _note(request, IGNORED_HEADER, ", ".join(paths), "fields ignored")


def note_truncation(request: Request, what: str) -> None:
    """Say in the response's header and in the log what was left out of a prompt that outgrew the window."""
    _note(request, TRUNCATED_HEADER, what, "prompt truncated")


def _note(request: Request, header: str, value: str, event: str) -> None:
    notes_of(request.scope)[header] = value
    extra = {"request_id": request.state.request_id, "path": request.url.path[:200], "what": value}
    logger.info(event, extra=extra)
