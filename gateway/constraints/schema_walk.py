"""Walks through JSON Schemas: where a keyword stands, what a reference means, and objects closed to further properties."""

from collections.abc import Callable, Iterator, Mapping
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
            return as_place(path)
    return None


def as_place(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the top level"


def with_closed_objects(schema: Any) -> Any:
    """Return the schema with `additionalProperties` false in each object that names properties and does not say otherwise.

    A schema that combines others is returned as it is, since each of them would forbid the properties of the others.
    """
    return schema if any(_combines(each) for _, each in subschemas(schema)) else map_subschemas(schema, _closed)


def _combines(schema: Mapping[str, Any]) -> bool:
    """Return True if several schemas apply to the same object."""
    parts = [key for key in ("properties", "$ref", "allOf", "anyOf", "oneOf") if key in schema]
    every = schema.get("allOf")
    return len(parts) > 1 or (isinstance(every, list) and len(every) > 1) or not _CONDITIONAL.isdisjoint(schema)


def map_subschemas(schema: Any, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """Return the schema with `change` applied to each schema inside it, and then to itself."""
    if not isinstance(schema, Mapping):
        return schema
    mapped: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _ONE:
            mapped[key] = map_subschemas(value, change)
        elif key in _MANY and isinstance(value, list):
            mapped[key] = [map_subschemas(each, change) for each in value]
        elif key in _NAMED and isinstance(value, Mapping):
            mapped[key] = {name: map_subschemas(each, change) for name, each in value.items()}
        else:
            mapped[key] = value
    return change(mapped)


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "additionalProperties" not in schema and _names_all_it_requires(schema):
        return {**schema, "additionalProperties": False}
    return schema


def _names_all_it_requires(schema: Mapping[str, Any]) -> bool:
    """Return True if the schema names properties, and among them those that an object must have."""
    names, required = schema.get("properties", {}), schema.get("required", [])
    is_sound = isinstance(names, Mapping) and isinstance(required, list)
    return (
        is_sound
        and bool(names or "patternProperties" in schema)
        and all(isinstance(each, str) and each in names for each in required)
    )


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
