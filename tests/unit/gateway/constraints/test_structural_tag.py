"""Tests of structural tags in both forms."""

import json
from typing import Any

import pytest

from gateway.constraints.structural_tag import structural_tag_rule
from gateway.errors import InvalidRequestError
from tests.unit.gateway.constraints.matching import refused

INTEGER = {"type": "json_schema", "json_schema": {"type": "integer"}}
NUMBER_TAG = {"begin": "<f=n>", "content": INTEGER, "end": "</f>"}
TEXT_TAG = {"begin": "<f=t>", "content": {"type": "any_text"}, "end": "</f>"}
TRIGGERED = {"type": "triggered_tags", "triggers": ["<f="], "tags": [NUMBER_TAG, TEXT_TAG]}


def text(value: str) -> dict[str, str]:
    return {"type": "const_string", "value": value}


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (text("ab"), ["ab"], ["a", "abc"]),
        ({"type": "any_text"}, ["", "a\nb"], []),
        ({"type": "regex", "pattern": "[a-c]+/"}, ["ab/"], ["/"]),
        ({"type": "grammar", "grammar": 'root ::= "a" root | "b"'}, ["aab"], ["aa"]),
        (INTEGER, ["12"], ["x"]),
        ({"type": "sequence", "elements": [text("n="), INTEGER, text(";")]}, ["n=1;"], ["n=1", "n=;"]),
        (
            {"type": "sequence", "elements": [{"type": "any_text"}, text("END"), INTEGER]},
            ["x END1", "END1"],
            ["x END", "1"],
        ),
        (
            {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "tag", **NUMBER_TAG}]},
            ["a <f=n>1</f>"],
            ["a"],
        ),
        ({"type": "or", "elements": [text("a"), INTEGER]}, ["a", "5"], ["b"]),
        ({"type": "optional", "content": text("a")}, ["", "a"], ["aa"]),
        ({"type": "star", "content": text("a")}, ["", "aaa"], ["b"]),
        ({"type": "plus", "content": text("a")}, ["a", "aa"], [""]),
        ({"type": "tag", **NUMBER_TAG}, ["<f=n>1</f>"], ["<f=n>x</f>", "1"]),
        ({"type": "tag", **TEXT_TAG}, ["<f=t>x < y</f>", "<f=t></f>"], ["<f=t>x</f>y"]),
        ({"type": "tag", **TEXT_TAG, "end": ["!", "?"]}, ["<f=t>x!", "<f=t>x?"], ["<f=t>x", "<f=t>x!?"]),
        (
            {"type": "tags_with_separator", "tags": [NUMBER_TAG, TEXT_TAG], "separator": ","},
            ["", "<f=n>1</f>", "<f=n>1</f>,<f=t>x</f>"],
            [",", "<f=n>1</f><f=t>x</f>"],
        ),
        ({**TRIGGERED, "at_least_one": True}, ["<f=n>1</f>", "a <f=n>1</f> b <f=t>x</f> c"], ["", "a", "<f=x>"]),
        ({**TRIGGERED, "stop_after_first": True}, ["a <f=n>1</f>", "a"], ["a <f=n>1</f> b", "<f=n>x"]),
        (
            {
                "type": "sequence",
                "elements": [{**TRIGGERED, "at_least_one": True, "stop_after_first": True}, text("!")],
            },
            ["a <f=n>1</f>!"],
            ["a <f=n>1</f>", "!"],
        ),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_forms_of_text(form: dict[str, Any], good: list[str], bad: list[str]) -> None:
    rule = structural_tag_rule({"type": "structural_tag", "format": form}, "f")
    assert not rule.triggers
    assert list(refused(rule, good + bad)) == bad
    assert structural_tag_rule(json.dumps({"format": form}), "f") == rule


def test_free_text_between_tags_needs_no_grammar() -> None:
    older = {
        "structures": [{"begin": "<f=n>", "schema": {"type": "integer"}, "end": "</f>"}],
        "triggers": ["<f="],
    }
    for tag in (older, {"format": {**TRIGGERED, "tags": [NUMBER_TAG]}}):
        rule = structural_tag_rule(tag, "f")
        assert rule.triggers == ("<f=",)
        # The token of a trigger may begin with other text.
        texts = ["<f=n>1</f>", ".\n<f=n>1</f>", "<f=n>x</f>", "<f=t>"]
        assert list(refused(rule, texts)) == texts[2:]


@pytest.mark.parametrize(
    ("tag", "path"),
    [
        ("{", "f"),
        ({}, "f"),
        ({"format": 5}, "f.format"),
        ({"format": {"type": "token", "token": 5}}, "f.format.type"),
        ({"format": {**INTEGER, "style": "qwen_xml"}}, "f.format.style"),
        ({"format": {"type": "sequence", "elements": []}}, "f.format.elements"),
        ({"format": {"type": "sequence", "elements": [text("a"), text(5)]}}, "f.format.elements.1.value"),  # type: ignore[arg-type]
        ({"format": {"type": "sequence", "elements": [{"type": "any_text"}, INTEGER]}}, "f.format.elements.0"),
        ({"format": {"type": "any_text", "excludes": ["a"]}}, "f.format.excludes"),
        ({"format": {**TRIGGERED, "triggers": ["<g="]}}, "f.format.triggers.0"),
        ({"format": {**TRIGGERED, "triggers": ["<f=n"]}}, "f.format.tags.1.begin"),
        ({"structures": [{"begin": "é" * 129}], "triggers": ["é" * 129]}, "f.triggers.0"),
        (
            {"format": {"type": "tag", "begin": "a", "content": {"type": "json_schema", "json_schema": 5}, "end": ""}},
            "f.format.content.json_schema",
        ),
        ({"structures": [{"schema": {}}], "triggers": ["a"]}, "f.structures.0.begin"),
        ({"structures": [{"begin": "a", "schema": {}}]}, "f.triggers"),
    ],
)
def test_what_is_wrong_is_named(tag: Any, path: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        structural_tag_rule(tag, "f")
    assert raised.value.param == path and raised.value.message.startswith(f"{path}: ")


def test_endless_nesting_is_refused() -> None:
    form: dict[str, Any] = text("a")
    for _ in range(500):
        form = {"type": "optional", "content": form}
    with pytest.raises(InvalidRequestError, match="nested more than"):
        structural_tag_rule({"format": form}, "f")
