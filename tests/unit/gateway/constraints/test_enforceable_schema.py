"""Tests of schemas that llguidance would not enforce exactly as they are."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.constraints.enforceable_schema import enforceable
from gateway.constraints.json_rule import json_schema_rule
from gateway.errors import InvalidRequestError
from tests.unit.gateway.constraints.matching import rule_accepts

PATTERNS = [
    '^[^"]$',
    r"^[^\\]$",
    r'^[^\\/:*?"<>|]$',
    r"^[\x00-\x1f]$",
    r"^[\u0000-\u001F]$",
    "^[^a]$",
    r"^[^\s]$",
    r"^\S$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(character=st.sampled_from('"\\/abf\n\t\x01^[é '))
@settings(max_examples=20, deadline=None)
def test_a_pattern_holds_for_quotes_and_backslashes(pattern: str, character: str) -> None:
    rule = json_schema_rule({"type": "string", "pattern": pattern}, "f")
    assert rule_accepts(rule, json.dumps(character, ensure_ascii=False)) == bool(re.search(pattern, character))


def test_names_of_properties_obey_their_pattern() -> None:
    rule = json_schema_rule(
        {"type": "object", "patternProperties": {'^[^"]$': {"type": "integer"}}, "additionalProperties": False}, "f"
    )
    assert rule_accepts(rule, '{"a":1}')
    assert not rule_accepts(rule, r'{"\"":1}')


@pytest.mark.parametrize("pattern", ["^[^]a]$", "[^]]", r"\[^a", "[a[^b]]"])
def test_only_negated_classes_are_changed(pattern: str) -> None:
    changed = enforceable({"pattern": pattern})["pattern"]
    assert changed.replace(r"[^\x00", "[^").replace(r"^\]", "^]") == pattern
    assert (changed == pattern) == (pattern == r"\[^a")


@pytest.mark.parametrize("kept", [{"const": {"pattern": "[^a]"}}, {"enum": [{"uniqueItems": False}]}])
def test_values_are_not_changed(kept: dict[str, Any]) -> None:
    assert enforceable(kept) == kept


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "unevaluatedProperties": True, "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": {"type": "integer", "uniqueItems": False}},
    ],
)
def test_keywords_that_allow_everything_are_supported(schema: dict[str, Any]) -> None:
    rule = json_schema_rule(schema, "f")
    assert rule_accepts(rule, '{"a":1}') and not rule_accepts(rule, '{"a":"b"}')


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"const": 2**53 + 1}, "'const' .*at the top level"),
        ({"properties": {"a": {"enum": [1, {"b": [-(2**60) - 1]}]}}}, "'enum' .*at properties.a"),
        ({"type": "integer", "maximum": 2**54 + 1}, "'maximum'"),
        ({"const": 10**400}, "'const'"),
    ],
)
def test_integers_that_would_be_rounded_are_refused(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"^f: the integer -?\d+ in {place}"):
        json_schema_rule(schema, "f")


def test_seconds_are_below_60() -> None:
    rule = json_schema_rule({"type": "string", "format": "date-time"}, "f")
    assert rule_accepts(rule, '"2026-12-01T10:11:59Z"') and not rule_accepts(rule, '"2026-12-01T10:11:60Z"')
    rule = json_schema_rule({"type": "string", "format": "time"}, "f")
    assert rule_accepts(rule, '"10:11:59.5+01:00"') and not rule_accepts(rule, '"10:11:60Z"')


@pytest.mark.parametrize("largest", [2**53 - 1, 2**53, 2**63 - 1, 2**64 - 1])
def test_the_ranges_of_usual_integers_are_supported(largest: int) -> None:
    rule = json_schema_rule({"type": "integer", "minimum": -largest, "maximum": largest}, "f")
    assert rule_accepts(rule, str(2**53 - 1)) and rule_accepts(rule, str(1 - 2**53))
    assert not rule_accepts(rule, str(2**64))
