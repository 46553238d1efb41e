"""Tests of whether a schema has a finite value."""

from typing import Any

import pytest

from gateway.constraints.finite_values import can_end


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def holding(inner: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": inner}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "ends"),
    [
        ({"$ref": "#"}, False),
        (holding({"$ref": "#"}), False),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, False),
        ({"type": "array", "items": {"$ref": "#"}}, True),
        ({"anyOf": [{"$ref": "#"}, holding({"$ref": "#"})]}, False),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, True),
        ({"$defs": {"x": {"allOf": [{"type": "null"}, ref("x")]}}, **ref("x")}, False),
        ({"$defs": {"x": holding(ref("y")), "y": {"oneOf": [ref("x"), {"type": "null"}]}}, **ref("x")}, True),
        ({"$defs": {"x": holding(ref("y")), "y": holding(ref("x"))}, **ref("x")}, False),
        ({"$defs": {"x": holding(ref("y")), "y": holding(ref("x"))}, "type": "null"}, True),
        ({"$ref": "#/$defs/none"}, True),
        ({"type": ["object", "string"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, True),
        (False, True),
    ],
)
def test_endless_schemas_are_found(schema: Any, ends: bool) -> None:
    assert can_end(schema) is ends


@pytest.mark.parametrize(("last", "ends"), [({"type": "null"}, True), (ref("0"), False)])
def test_a_long_chain_of_references_is_followed_to_its_end(last: Any, ends: bool) -> None:
    # A walk that begins anew after each reference takes minutes for it.
    links = {str(number): holding(ref(str(number + 1))) for number in range(20_000)}
    assert can_end({"$defs": {**links, "20000": holding(last)}, **ref("0")}) is ends
