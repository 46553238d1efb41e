"""The values of parameters that are written as bare text: JSON text by the types that a tool's schema allows."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from gateway.parsing.python_values import python_to_json

MAX_SCHEMA_DEPTH = 16

_INTEGER = re.compile(r"-?[0-9]{1,4000}(?:\.0+)?")
_TYPE_OF_VALUE = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def parameter_types(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the JSON types that a tool's schema allows for a parameter. Empty if it does not say."""
    properties = schema.get("properties")
    parameter = properties.get(name) if isinstance(properties, Mapping) else None
    return frozenset(_types(parameter, schema, MAX_SCHEMA_DEPTH))


def to_json(text: str, types: frozenset[str]) -> str:
    """Return the JSON text of a value of one of these types; a string if it is of none. Without types, JSON is what it is."""
    value = text.strip()
    if "null" in types and value in ("null", "None"):
        return "null"
    if "boolean" in types and value.lower() in ("true", "false"):
        return value.lower()
    if types & {"integer", "number"} and _INTEGER.fullmatch(value) and (decoded := _decoded(value)) is not None:
        return str(int(decoded)) if "number" not in types else value
    for name, kind in (("number", int | float), ("object", dict), ("array", list)):
        if name in types and isinstance(_decoded(value), kind):
            return value
    if types & {"object", "array"} and (converted := python_to_json(value)) and converted[0] in "{[":
        return converted
    if not types and isinstance(_decoded(value), int | float | dict | list):  # a bool is an int
        return value
    if not types and value in ("null", "None", "True", "False"):
        return {"None": "null"}.get(value, value.lower())
    return json.dumps(text, ensure_ascii=False)


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


def _decoded(text: str) -> Any:
    """Return the value of a JSON text, or None."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
