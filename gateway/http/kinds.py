"""Short descriptions of the values that a field accepts, made from its JSON schema. Documentation and errors use them."""

from collections.abc import Mapping, Sequence
from typing import Any

SMALLEST_WIRE_BOUND = 2**31 - 1
"""Smallest bound that only the wire format sets. Such bounds are not worth a mention, except to a client that exceeded one."""
_PYDANTIC_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def describe_kind(value: Mapping[str, Any], definitions: Mapping[str, Any], *, all_bounds: bool = False) -> str:
    """Return a description such as `a number from 0 to 2`. Bounds of the wire format are left out unless `all_bounds` is set."""
    if "$ref" in value:
        return "an object" if "properties" in _resolve(value, definitions) else "any"
    if branches := _branches(value):
        kinds = [describe_kind(each, definitions, all_bounds=all_bounds) for each in branches]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in value or "enum" in value:
        *first, last = (f"`{each}`" for each in value.get("enum", [value.get("const")]))
        return f"{', '.join(first)} or {last}" if first else last
    match value.get("type"):
        case "array":
            return f"a list of {_plural(describe_kind(value['items'], definitions, all_bounds=all_bounds))}"
        case "object":
            return "an object"
        case "boolean":
            return "`true` or `false`"
        case "integer":
            return f"an integer{_range(value, all_bounds)}"
        case str(name):
            return f"a {name}{_range(value, all_bounds)}"
    return "any"


def kind_at(document: Mapping[str, Any], path: Sequence[str | int], *, all_bounds: bool = False) -> str | None:
    """Return the description of the values allowed at a path in a body, or None if the schema does not tell."""
    definitions = document.get("$defs", {})
    value = document
    for step in path:
        found = _step_into(value, step, definitions)
        if found is None:
            return None
        value = found
    kind = describe_kind(value, definitions, all_bounds=all_bounds)
    return None if kind == "any" else kind


def with_standard_bounds(schema: Any) -> Any:
    """Return the schema with JSON Schema's names of bounds. After a converting validator, pydantic writes its own (`ge`)."""
    if isinstance(schema, list):
        return [with_standard_bounds(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    is_number = schema.get("type") in ("integer", "number")
    return {
        _PYDANTIC_BOUNDS.get(name, name) if is_number else name: with_standard_bounds(value)
        for name, value in schema.items()
    }


def _step_into(value: Mapping[str, Any], step: str | int, definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a field or of a list's items. In a union, the first branch that has it counts."""
    if "$ref" in value:
        value = _resolve(value, definitions)
    for branch in _branches(value):
        if (found := _step_into(branch, step, definitions)) is not None:
            return found
    if isinstance(step, int):
        inner = value.get("items")
    else:
        inner = value.get("properties", {}).get(step, value.get("additionalProperties"))
    return inner if isinstance(inner, dict) else None


def _branches(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the branches of a union, without null."""
    return [each for each in value.get("anyOf", value.get("oneOf", ())) if each.get("type") != "null"]


def _resolve(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = definitions[value["$ref"].rpartition("/")[2]]
    return found


def _plural(kind: str) -> str:
    noun, _, rest = kind.removeprefix("an ").removeprefix("a ").partition(" ")
    return f"{noun}s {rest}".strip()


def _range(value: Mapping[str, Any], all_bounds: bool) -> str:
    low, above, high, below = (
        _number(value[name]) if name in value and (all_bounds or abs(value[name]) < SMALLEST_WIRE_BOUND) else None
        for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    )
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if above is not None and high is not None:
        return f" above {above} and at most {high}"
    words = {"of at least": low, "above": above, "of at most": high, "below": below}
    return " and".join(f" {word} {bound}" for word, bound in words.items() if bound is not None)


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"
