"""The values of parameters that are written as bare text: JSON text by the types that a tool's schema allows."""

import json
import re
from typing import Any, NoReturn

from gateway.parsing.json_scanner import JsonScanner, escaped
from gateway.parsing.python_values import python_to_json

_INTEGER = re.compile(r"-?[0-9]{1,4000}(?:\.0+)?")

_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|true|false|null|")
"""A value without quotes and brackets that is complete, or empty."""


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


def beginning_of_json(text: str) -> str:
    """Return the beginning of a value that was cut off: the text itself if it begins like JSON, else a string."""
    value = text.strip()
    if value[:1] in ("{", "["):
        scanner = JsonScanner()
        repaired, length = scanner.scan(value)
        if length == len(value):
            return repaired + scanner.take_rest()
    elif _SCALAR.fullmatch(value):
        return value
    return f'"{escaped(text)}'


def _decoded(text: str) -> Any:
    """Return the value of a JSON text, or None."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
