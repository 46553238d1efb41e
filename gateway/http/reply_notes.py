"""Headers that tell a client what was done otherwise than it asked; set while a request is handled, sent with its response."""

import logging
from collections.abc import Sequence
from typing import cast

from fastapi import Request
from starlette.types import Scope

IGNORED_HEADER = "x-pagoda-ignored"
TRUNCATED_HEADER = "x-pagoda-truncated"

logger = logging.getLogger(__name__)


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
