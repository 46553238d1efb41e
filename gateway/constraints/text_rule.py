"""The rule that a client sets for the text of an answer: JSON, a schema, a regular expression, one of several texts, a grammar."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gateway.errors import InvalidRequestError

MAX_GRAMMAR_CHARACTERS = 1 << 19


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextRule:
    """A rule for the text of an answer.

    `lark` is the rule as a grammar of llguidance: a Lark text with the rule `start`. It is made and checked for what it refuses by
    the functions of this folder, one for each kind.
    """

    lark: str
    field: str
    """The field of the request that demands it, for errors, such as `response_format`."""
    schema: Any = None
    """The JSON Schema behind it, for errors; None if there is none."""
    parts: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Further grammars, which `lark` names as `@name`."""
    triggers: tuple[str, ...] = ()
    """Texts that begin the grammar, which each begin a match of `lark`. Empty if the whole text must match."""


def refuse_long(text: str, field: str, most: int = MAX_GRAMMAR_CHARACTERS) -> None:
    """Raise InvalidRequestError if the text of a rule is so long that the work before its check would hold the event loop."""
    if len(text) > most:
        raise InvalidRequestError(f"{field}: may have at most {most} characters (got {len(text)})", param=field)
