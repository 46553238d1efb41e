"""The JSON types that a tool's schema allows for a parameter. The parser of calls and their grammar must agree on them."""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_SCHEMA_DEPTH = 16

_OTHER_NAMES = {
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "str": "string",
    "dict": "object",
    "list": "array",
}
"""Names of types that tools use although JSON Schema has others."""
_TYPE_OF_VALUE = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def parameter_types(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the JSON types that a tool's schema allows for a parameter. Empty if it does not say."""
    properties = schema.get("properties")
    parameter = properties.get(name) if isinstance(properties, Mapping) else None
    return frozenset(_OTHER_NAMES.get(each, each) for each in _types(parameter, schema, MAX_SCHEMA_DEPTH))


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or not depth:
        return
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (each for each in declared if isinstance(each, str))
    elif "const" in schema or isinstance(schema.get("enum"), list):
        values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]]
        yield from (_TYPE_OF_VALUE.get(type(value), "null") for value in values)
    if schema.get("nullable") is True:
        yield "null"
    for key in ("anyOf", "oneOf", "allOf"):
        for each in schema[key] if isinstance(schema.get(key), list) else ():
            yield from _types(each, root, depth - 1)
    if isinstance(reference := schema.get("$ref"), str):
        yield from _types(_resolved(reference, root), root, depth - 1)


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """Return the part of the schema that a local reference names, or None."""
    if not reference.startswith("#"):
        return None
    place: Any = root
    for key in reference.split("/")[1:]:
        place = place.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
    return place
