"""Walks through JSON Schemas: whether a value can exist, where a keyword stands, and objects closed to further properties."""

from collections.abc import Iterator, Mapping
from typing import Any

_ONE = (
    "additionalProperties",
    "items",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedProperties",
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_CONDITIONAL = frozenset({"not", "if", "then", "else", "dependentSchemas", "unevaluatedProperties"})
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def subschemas(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the schema and all schemas inside it that are objects, each with its path."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for key, value in schema.items():
        if key in _ONE:
            yield from subschemas(value, (*path, key))
        elif key in _MANY and isinstance(value, list):
            for index, inner in enumerate(value):
                yield from subschemas(inner, (*path, key, str(index)))
        elif key in _NAMED and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from subschemas(inner, (*path, key, name))


def place_of(schema: Any, keyword: str, value: Any = None) -> str | None:
    """Return the path of the first schema with the keyword, and with the value if there is one; None if none has it."""
    for path, inner in subschemas(schema):
        if keyword in inner and value in (None, inner[keyword]):
            return ".".join(path) or "the top level"
    return None


def with_closed_objects(schema: Any) -> Any:
    """Return the schema with `additionalProperties` false in each object that names properties and does not say otherwise.

    A schema that combines others is returned as it is, since each of them would forbid the properties of the others.
    """
    return schema if any(_combines(each) for _, each in subschemas(schema)) else _closed(schema)


def _combines(schema: Mapping[str, Any]) -> bool:
    """Return True if several schemas apply to the same object."""
    parts = [key for key in ("properties", "$ref", "allOf", "anyOf", "oneOf") if key in schema]
    every = schema.get("allOf")
    return len(parts) > 1 or (isinstance(every, list) and len(every) > 1) or not _CONDITIONAL.isdisjoint(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _ONE:
            closed[key] = _closed(value)
        elif key in _MANY and isinstance(value, list):
            closed[key] = [_closed(each) for each in value]
        elif key in _NAMED and isinstance(value, Mapping):
            closed[key] = {name: _closed(each) for name, each in value.items()}
        else:
            closed[key] = value
    if "additionalProperties" not in closed and _names_all_it_requires(closed):
        closed["additionalProperties"] = False
    return closed


def _names_all_it_requires(schema: Mapping[str, Any]) -> bool:
    """Return True if the schema names properties, and among them those that an object must have."""
    names, required = schema.get("properties", {}), schema.get("required", [])
    is_sound = isinstance(names, Mapping) and isinstance(required, list)
    return (
        is_sound
        and bool(names or "patternProperties" in schema)
        and all(isinstance(each, str) and each in names for each in required)
    )


def can_end(schema: Any) -> bool:
    """Return False if each value of the schema would contain another one of it, without end."""
    references = {ref for _, each in subschemas(schema) if isinstance(ref := each.get("$ref"), str)}
    targets = {ref: target for ref in references if (target := resolved_reference(schema, ref)) is not None}
    ending = references - targets.keys()  # llguidance refuses what leads nowhere
    while found := {ref for ref, target in targets.items() if ref not in ending and _ends(target, ending)}:
        ending |= found
    return _ends(schema, ending)


def resolved_reference(root: Any, reference: str) -> Any:
    """Return the part of the schema that the reference names; None if it is none of `#/…`."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    value = root
    for step in reference[2:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _ends(schema: Any, ending: set[str]) -> bool:
    """Return True if the schema has a finite value, when all references in `ending` have one."""
    if not isinstance(schema, Mapping) or "const" in schema or "enum" in schema:
        return True
    if isinstance(reference := schema.get("$ref"), str) and reference not in ending:
        return False
    for key in ("anyOf", "oneOf"):
        branches = schema.get(key)
        if isinstance(branches, list) and branches and not any(_ends(branch, ending) for branch in branches):
            return False
    if isinstance(parts := schema.get("allOf"), list) and not all(_ends(part, ending) for part in parts):
        return False
    return _has_finite_kind(schema, ending)


def _has_finite_kind(schema: Mapping[str, Any], ending: set[str]) -> bool:
    kinds = schema.get("type")
    kinds = {kinds} if isinstance(kinds, str) else {str(kind) for kind in kinds} if isinstance(kinds, list) else set()
    if not kinds or kinds - {"object", "array"}:
        return True
    return ("object" in kinds and _has_finite_object(schema, ending)) or (
        "array" in kinds and _has_finite_array(schema, ending)
    )


def _has_finite_object(schema: Mapping[str, Any], ending: set[str]) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return True
    return all(_ends(properties[name], ending) for name in required if isinstance(name, str) and name in properties)


def _has_finite_array(schema: Mapping[str, Any], ending: set[str]) -> bool:
    minimum = schema.get("minItems", 0)
    if not isinstance(minimum, int | float) or minimum <= 0:
        return True
    prefix = schema.get("prefixItems")
    first = [each for index, each in enumerate(prefix) if index < minimum] if isinstance(prefix, list) else []
    rest = [schema.get("items", True)] if len(first) < minimum else []
    return all(_ends(each, ending) for each in (*first, *rest))
