"""Tests of JSON under a schema: what clients' libraries send, whitespace, escapes, order, and random schemas."""

import json
from enum import Enum
from typing import Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from gateway.constraints.json_rule import JSONStyle, json_object_rule, json_schema_rule
from gateway.errors import InvalidRequestError
from tests.unit.gateway.constraints.matching import rule_accepts

AB = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def accepts(schema: Any, text: str, style: JSONStyle | None = None) -> bool:
    return rule_accepts(json_schema_rule(schema, "f", *([style] if style else [])), text)


@pytest.mark.parametrize("indent", [None, 1, 2, 4, "\t"])
def test_usual_whitespace_is_allowed(indent: int | str | None) -> None:
    assert accepts(AB, json.dumps({"a": 1, "b": [1, 2]}, indent=indent))


@pytest.mark.parametrize("text", ['{"a":1,"b":[1,2]}', '{"a": 1,\r\n "b": []}'])
def test_other_whitespace_is_allowed(text: str) -> None:
    assert accepts(AB, text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "b": [1,   2]}',
        '{"a":1,\n\n"b":[]}',
        f'{{"a":1,\n{" " * 25}"b":[]}}',
        ' {"a":1,"b":[]}',
        '{"a":1,"b":[]} ',
    ],
)
def test_endless_whitespace_is_not(text: str) -> None:
    assert not accepts(AB, text)


def test_a_client_may_choose_the_whitespace() -> None:
    assert accepts(AB, '{"a":1,"b":[]}', JSONStyle(whitespace=None))
    assert not accepts(AB, '{"a": 1,"b":[]}', JSONStyle(whitespace=None))
    assert accepts(AB, '{"a"___:1,"b":[]}', JSONStyle(whitespace="_{3}"))


@pytest.mark.parametrize("text", ["café", r"caf\u00e9", r"\ud83d\ude00", r"a\"b\\c\n", "😀"])
def test_escapes_and_characters_of_all_kinds_are_allowed(text: str) -> None:
    assert accepts({"type": "string"}, f'"{text}"')


@pytest.mark.parametrize("text", [r"\x41", "a\nb", r"\u00g0"])
def test_what_is_no_json_string_is_refused(text: str) -> None:
    assert not accepts({"type": "string"}, f'"{text}"')


def test_properties_come_in_the_order_of_the_schema() -> None:
    assert not accepts(AB, '{"b": [], "a": 1}')


def test_objects_have_no_other_properties_unless_the_schema_or_the_client_says_so() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    assert not accepts(schema, '{"a": {"c": 1}}') and not accepts(schema, '{"d": 2}')
    assert accepts(schema, '{"a": {"b": [1]}}')
    assert accepts(schema, '{"a": {"c": 1}, "d": 2}', JSONStyle(closes_objects=False))
    assert accepts({**schema, "additionalProperties": True}, '{"d": 2}')
    assert not accepts({**schema, "additionalProperties": True}, '{"a": {"c": 1}}')


A, B = ({"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]} for name in "ab")


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [A, B]},
        {"$defs": {"A": A, "B": B}, "allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
        {**A, "anyOf": [B, {"type": "object", "properties": {"c": {}}, "required": ["c"]}]},
        {**A, "required": ["a", "b"]},
    ],
)
def test_objects_that_several_schemas_describe_stay_open(schema: dict[str, Any]) -> None:
    assert accepts(schema, '{"a": 1, "b": 2}')


@pytest.mark.parametrize("schema", [{"anyOf": [A, B]}, {"$defs": {"A": A}, "$ref": "#/$defs/A"}, {"allOf": [A]}])
def test_objects_behind_a_reference_or_a_choice_are_closed(schema: dict[str, Any]) -> None:
    assert accepts(schema, '{"a": 1}') and not accepts(schema, '{"a": 1, "c": 2}')


def test_any_object() -> None:
    rule = json_object_rule("f")
    assert rule_accepts(rule, '{"a": {"b": [1, "x", null, true]}, "c": -1.5e3}') and rule_accepts(rule, "{}")
    assert not any(rule_accepts(rule, text) for text in ("[]", "1", '"a"', '{"a"}', ""))


def test_the_options_of_a_client_do_not_reach_the_compiler() -> None:
    schema = AB | {"x-guidance": {"lenient": True, "whitespace_flexible": False}}
    assert accepts(schema, '{"a": 1, "b": []}')


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    owner: "Owner | None" = None


class Owner(BaseModel):
    model_config = {"extra": "forbid"}

    name: str = Field(min_length=1, max_length=10, pattern="^[A-Z]")
    colour: Colour
    pets: list[Cat | Dog] = Field(default_factory=list, max_length=3)
    pet: Cat | Dog | None = Field(default=None, discriminator="kind")
    scores: dict[str, float] = {}
    friend: "Owner | None" = None
    pair: tuple[int, str] = (1, "a")


OWNER = Owner.model_json_schema()


@pytest.mark.parametrize(
    "value",
    [
        {"name": "Ann", "colour": "red"},
        {"name": "Ann", "colour": "green", "pets": [{"kind": "cat", "lives": 9}], "scores": {"x": 1.5}},
        {"name": "A", "colour": "red", "pet": {"kind": "dog", "owner": None}, "friend": {"name": "B", "colour": "red"}},
        {"name": "A", "colour": "red", "pair": [1, "b"]},
    ],
)
def test_a_model_of_pydantic(value: dict[str, Any]) -> None:
    Owner.model_validate(value)
    assert accepts(OWNER, json.dumps(value))


@pytest.mark.parametrize(
    "value",
    [
        {"name": "Ann"},
        {"name": "ann", "colour": "red"},
        {"name": "Ann", "colour": "blue"},
        {"name": "Ann", "colour": "red", "more": 1},
        {"name": "Ann", "colour": "red", "pets": [{"kind": "cat", "lives": 10}]},
        {"name": "Ann", "colour": "red", "pets": [{"kind": "cow"}]},
        {"name": "Ann", "colour": "red", "pair": [1]},
    ],
)
def test_what_pydantic_refuses(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Owner.model_validate(value)
    assert not accepts(OWNER, json.dumps(value))


@pytest.mark.parametrize("schema", [5, "{", "5", [], None, '"a"'])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"^f: must be a JSON Schema"):
        json_schema_rule(schema, "f")


def test_a_schema_may_be_text() -> None:
    assert accepts(json.dumps(AB), '{"a":1,"b":[]}')


def test_a_schema_without_bottom_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"items": deep}
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        json_schema_rule(deep, "f")


scalars = st.sampled_from(
    [
        {"type": "string", "maxLength": 3},
        {"type": "integer", "minimum": -3, "maximum": 20},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", 1, None]},
        {"const": [1, {"x": "y"}]},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": ["string", "null"]},
    ]
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.fixed_dictionaries({name: inner for name in "abc"})  # others come after them
    return st.one_of(
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        st.builds(
            lambda named, closed: {
                "type": "object",
                "properties": named,
                "required": sorted(named)[::2],
                "additionalProperties": not closed,
            },
            properties,
            st.booleans(),
        ),
    )


schemas = st.recursive(scalars, containers, max_leaves=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 25)
    | st.sampled_from(["", "a", "abcd", "é\n"])
    | st.integers(-20, 20).map(lambda n: n / 8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=8,
)


def ordered(value: Any) -> Any:
    """Return the value with its properties in order, as the schemas here name them."""
    if isinstance(value, dict):
        return {name: ordered(value[name]) for name in sorted(value)}
    return [ordered(each) for each in value] if isinstance(value, list) else value


@given(schema=schemas, value=values)
@settings(max_examples=60)
def test_random_values_are_accepted_exactly_if_they_are_valid(schema: Any, value: Any) -> None:
    text = json.dumps(ordered(value))
    assert accepts(schema, text) == jsonschema_rs.is_valid(schema, json.loads(text)), (schema, text)
