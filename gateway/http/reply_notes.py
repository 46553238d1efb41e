"""Headers that tell a client what was done otherwise than it asked; set while a request is handled, sent with its response."""

from typing import cast

from starlette.types import Scope

IGNORED_HEADER = "x-pagoda-ignored"
TRUNCATED_HEADER = "x-pagoda-truncated"


def notes_of(scope: Scope) -> dict[str, str]:
    """The headers of this request's response, to be read and added to."""
    return cast(dict[str, str], scope["state"].setdefault("reply_notes", {}))
