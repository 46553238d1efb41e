"""JSON Schemas as llguidance enforces them exactly: changes that keep the meaning, and numbers that it would round."""

import re
from collections.abc import Mapping
from typing import Any

from gateway.constraints.schema_walk import as_place, map_subschemas, subschemas

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_LARGEST_INTEGER = 2**63 - 1
"""llguidance reads numbers as floating-point numbers of 64 bits. Larger ones than this become this one."""
_LARGEST_BOUND = 2**63 - 1024
"""The largest of them that is an integer of 63 bits. Larger bounds of integers become this one."""
_NUL = re.compile(r"(?P<escape>\\(?:x00|u0000|x\{0+\}))(?P<range>-)|\\.|\[\^(?P<bracket>\]?)", re.DOTALL)
_ANNOTATIONS = frozenset({"title", "description", "$comment"})


def enforceable(schema: Any) -> Any:
    """Return a schema that means the same, for llguidance. Strings under a pattern have no NUL, which hardly any text has."""
    return map_subschemas(schema, _enforceable)


def exactness_problem(schema: Any) -> str | None:
    """Return the first integer that llguidance would round, with its place, or None."""
    for path, inner in subschemas(schema):
        for keyword in ("enum", "const", *_BOUNDS):
            if (number := _rounded(inner.get(keyword), is_bound=keyword in _BOUNDS)) is not None:
                return f"the integer {number} in '{keyword}' is not supported, since it has more than 53 bits (at {as_place(path)})"
    return None


def _rounded(value: Any, *, is_bound: bool) -> int | None:
    """Return an integer in the value that a floating-point number cannot represent, or None."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, int) and each != _LARGEST_INTEGER and abs(each) > 1 << 53:
            if is_bound and abs(each) > _LARGEST_BOUND:
                continue
            if abs(each) >> 1000 or int(float(each)) != each:
                return each
    return None


def _enforceable(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    changed = {key: value for key, value in schema.items() if not _says_nothing(key, value)}
    if isinstance(pattern := changed.get("pattern"), str):
        changed["pattern"] = _without_nul(pattern)
    if isinstance(named := changed.get("patternProperties"), Mapping):
        changed["patternProperties"] = {_without_nul(key): value for key, value in named.items()}
    elif changed.get("format") in ("time", "date-time"):
        # llguidance would allow a leap second in each minute.
        changed["pattern"] = "^[^:]+:[0-9]{2}:[0-5]"
    if changed.get("type") == "integer":
        for bound in _BOUNDS:
            value = changed.get(bound)
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_BOUND:
                changed[bound] = _LARGEST_BOUND if value > 0 else -_LARGEST_BOUND
    return changed


def _says_nothing(keyword: str, value: Any) -> bool:
    """Return True if the keyword, which llguidance does not know, allows everything."""
    if keyword == "propertyNames":
        # Zod describes records so.
        return value is True or (
            isinstance(value, Mapping)
            and value.get("type", "string") == "string"
            and value.keys() - {"type"} <= _ANNOTATIONS
        )
    return (keyword == "uniqueItems" and value is False) or (keyword == "unevaluatedProperties" and value is True)


def _without_nul(pattern: str) -> str:
    """Return the pattern with classes of characters that do not have NUL.

    llguidance takes a class with all control characters for one that has the quote and the backslash too: with `[^"]` it would
    allow the quote.
    """

    def replaced(found: re.Match[str]) -> str:
        if found["range"]:
            return r"\x01-"
        if found["bracket"] is None:
            return found[0]
        return r"[^\x00\]" if found["bracket"] else r"[^\x00"

    return _NUL.sub(replaced, pattern)
