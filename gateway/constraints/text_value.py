"""The texts that a schema of a string allows, for formats of calls that write them without quotes."""

import re
from collections.abc import Mapping
from typing import Any

from gateway.constraints.lark import ANY_TEXT, literal, one_of
from gateway.constraints.regex_rule import regex_terminal

_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "example",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
        "nullable",
    }
)
_TEXT_KEYWORDS = frozenset({"type", "enum", "const", "minLength", "maxLength", "pattern"})


class UnsupportedSchemaError(ValueError):
    """The error for a schema that cannot be enforced in a format of calls. It says why."""


def refuse_unknown(schema: Mapping[str, Any], known: frozenset[str], *, is_lenient: bool) -> None:
    """Raise UnsupportedSchemaError for a keyword that is neither known nor an annotation."""
    unknown = [key for key in schema if key not in known and key not in _ANNOTATIONS and not key.startswith("x-")]
    if unknown and not is_lenient:
        raise UnsupportedSchemaError(f"'{unknown[0]}' is not supported for this model's format of calls")


def text_expression(schema: Mapping[str, Any], *, is_lenient: bool) -> str | None:
    """Return the lexeme of the texts that the schema of a string allows; None if it allows any."""
    if (values := enumerated(schema)) is not None:
        texts = [literal(value) or '""' for value in values if isinstance(value, str)]
        if not texts:
            raise UnsupportedSchemaError("no value can satisfy it")
        return one_of(texts)
    refuse_unknown(schema, _TEXT_KEYWORDS, is_lenient=is_lenient)
    least, most, pattern = schema.get("minLength"), schema.get("maxLength"), schema.get("pattern")
    parts = []
    if least is not None or most is not None:
        parts.append(f"/(?s:.{{{int(least or 0)},{'' if most is None else int(most)}}})/")
    if isinstance(pattern, str):
        parts.append(_searched(pattern))
    return " & ".join(parts) or None


def enumerated(schema: Mapping[str, Any]) -> list[Any] | None:
    """Return the values that `enum` or `const` lists, or None."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def without(expression: str | None, ending: str) -> str:
    """Return the lexeme of the texts that do not have `ending` inside."""
    return f"({expression or ANY_TEXT}) & ~/(?s:.*){regex_terminal(re.escape(ending))[1:-1]}(?s:.*)/"


def _searched(pattern: str) -> str:
    """Return the lexeme of the texts in which the pattern is found anywhere, as JSON Schema says."""
    if "|" in pattern and pattern[:1] + pattern[-1:] != "()":
        pattern = f"(?:{pattern})"
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith(r"\$")
    inner = pattern[1 if begins else 0 : -1 if ends else None]
    return regex_terminal(f"{'' if begins else '(?s:.*)'}(?:{inner}){'' if ends else '(?s:.*)'}")
