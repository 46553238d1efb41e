"""The demand of a client on the text of an answer: JSON, a schema, a regular expression, one of several texts, a grammar."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRule:
    """A rule for the text of an answer.

    `lark` is the rule as a grammar of llguidance: a Lark text with the rule `start`. It is made and checked for what it refuses by
    the functions of this folder, one for each kind.
    """

    lark: str
    field: str
    """The field of the request that demands it, for errors, such as `response_format`."""
