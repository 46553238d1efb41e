"""Tests of the grammar of calls of every format: what it accepts, and that the parser understands whatever it allows."""

import json
import random
from typing import Any

import jsonschema_rs
import pytest

from gateway.constraints.call_grammar import (
    Exactness,
    ToolRule,
    arguments_grammar,
    triggered_calls,
    whole_calls,
)
from gateway.constraints.text_value import UnsupportedSchemaError
from gateway.parsing.parts import CallArguments, CallBegan, ContentPart
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import CallSyntax, OutputFormat, Slot, described_formats
from tests.fakes.byte_tokenizer import ByteTokenizer
from tests.fakes.output_tokens import parse
from tests.unit.gateway.constraints.matching import Vocabulary

FORMATS = {name: each for name, each in described_formats().items() if each.calls}
WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 20},
            "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
            "where": {"$ref": "#/$defs/Place"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 2},
            "hot": {"type": "boolean"},
        },
        "required": ["city", "where"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {"x": {"type": "number", "minimum": 0, "maximum": 1}, "of": {"enum": ["a'b", None, 2]}},
                "required": ["x"],
                "additionalProperties": False,
            }
        },
    },
)
NOW = Tool(name="now")
TOOLS = (WEATHER, NOW)
RULES = (ToolRule(WEATHER), ToolRule(NOW))


def control_names(output_format: OutputFormat) -> list[str]:
    """Return the texts of a format that are control tokens in the vocabularies of its models."""
    calls = output_format.calls
    assert calls is not None
    texts = " ".join(
        piece for piece in (*calls.begin, *calls.call, *calls.end, calls.quote) if not isinstance(piece, Slot)
    )
    names = ("<|channel|>", "<|constrain|>", "<|message|>", "<|call|>", "<|tool_call>", "<tool_call|>", '<|"|>')
    more = ("[TOOL_CALLS]", "[ARGS]", "<|tool_call_start|>", "<|tool_call_end|>", "<｜tool▁call▁begin｜>")
    return [name for name in (*names, *more) if name in texts]


def random_answer(grammar: str, tokenizer: ByteTokenizer, seed: int, endings: list[str]) -> list[int] | None:
    """Return random tokens that the grammar allows; None if they do not end within the limit."""
    matcher, chance = Vocabulary.of(tokenizer).new_matcher(grammar), random.Random(seed)
    ids: list[int] = []
    closers = [tokenizer.encode(text) for text in endings if text]
    while len(ids) < 600:
        mask = matcher.compute_bitmask()
        allowed = [each for each in range(tokenizer.vocab_size) if mask[each // 8] >> each % 8 & 1]
        assert allowed and not matcher.is_error(), matcher.get_error()
        if tokenizer.eos_token_ids[0] in allowed and (len(allowed) == 1 or chance.random() < 0.5):
            return ids
        step = [chance.choice(allowed)]
        closing = [each for each in closers if matcher.validate_tokens(each) == len(each)]
        if len(allowed) > 60 and closing and chance.random() < 0.4:
            step = chance.choice(closing)
        elif len(allowed) > 60:
            letters = [each for each in allowed if 32 <= each < 127 or each > 255]
            step = [chance.choice(letters or allowed)]
        if step[0] in tokenizer.eos_token_ids:
            continue
        assert matcher.consume_tokens(step), matcher.get_error()
        ids += step
    return None


VOCABULARIES = [
    *((name, ()) for name in FORMATS),
    *((name, tuple(names)) for name, each in FORMATS.items() if (names := control_names(each))),
]


@pytest.mark.parametrize(("name", "control"), VOCABULARIES, ids=str)
def test_the_parser_understands_whatever_the_grammar_allows(name: str, control: tuple[str, ...]) -> None:
    output_format = FORMATS[name]
    assert output_format.calls is not None
    tokenizer = ByteTokenizer(control)
    grammar = whole_calls(output_format.calls, tokenizer, RULES, parallel=True)
    calls = output_format.calls
    endings = ['"', "'", calls.quote, *(str(piece) for piece in calls.parameter if not isinstance(piece, Slot))]
    num_whole = 0
    for seed in range(4):
        ids = random_answer(grammar, tokenizer, seed, endings)
        if ids is None:
            continue
        num_whole += 1
        parts = parse(output_format, tokenizer, ids, tools=TOOLS, reasoning=ReasoningStart.NONE)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert not [part for part in parts if isinstance(part, ContentPart)], (text, parts)
        names = [part.name for part in parts if isinstance(part, CallBegan)]
        values = [json.loads(part.text) for part in parts if isinstance(part, CallArguments)]
        assert len(names) == len(values) >= 1, text
        for called, value in zip(names, values, strict=True):
            schema = dict(WEATHER.parameters) if called == "get_weather" else {"type": "object", "maxProperties": 0}
            assert jsonschema_rs.is_valid(schema, value), (text, value)
    assert num_whole >= 1


def calls_of(name: str) -> CallSyntax:
    calls = FORMATS[name].calls
    assert calls is not None
    return calls


HERMES, QWEN, MISTRAL = calls_of("hermes"), calls_of("qwen-xml"), calls_of("mistral")
NUMBER = Tool(name="n", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
ONE = '<tool_call>\n{"name": "n", "arguments": {"a": 1}}\n</tool_call>'


def accepted(grammar: str, text: str, tokenizer: ByteTokenizer | None = None) -> bool:
    return Vocabulary.of(tokenizer or ByteTokenizer()).accepts(grammar, text)


def test_calls_between_tags() -> None:
    rules = [ToolRule(NUMBER), ToolRule(NOW)]
    one = whole_calls(HERMES, ByteTokenizer(), rules, parallel=False)
    more = whole_calls(HERMES, ByteTokenizer(), rules, parallel=True)
    two = f'{ONE}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
    assert accepted(one, ONE) and accepted(more, ONE) and accepted(more, two)
    assert not accepted(one, two)
    for wrong in (f"Hm. {ONE}", ONE.replace('"n"', '"m"'), ONE.replace("1", '"x"'), ONE.replace('"a": 1', ""), ""):
        assert not accepted(more, wrong)


def test_what_follows_a_trigger() -> None:
    free = triggered_calls(HERMES, ByteTokenizer(), [ToolRule(NUMBER)], parallel=True)
    # The token of the trigger may have other text before it and whitespace after it.
    for text in (ONE, f"Well.{ONE}", ONE.replace(">\n{", ">{"), ONE.replace(">\n{", ">\n\n{")):
        assert accepted(free, text)
    assert not accepted(free, f"{ONE}\n{ONE}"), "the next call has a trigger of its own"
    assert not accepted(free, "<tool_call>\nWhat is it?")
    single = triggered_calls(HERMES, ByteTokenizer(), [ToolRule(NUMBER)], parallel=False)
    matcher = Vocabulary.of(ByteTokenizer()).new_matcher(single)
    matcher.consume_tokens(ByteTokenizer().encode(ONE))
    assert not matcher.is_stopped()
    mask = matcher.compute_bitmask()
    end = ByteTokenizer().eos_token_ids[0]
    assert [each for each in range(end + 1) if mask[each // 8] >> each % 8 & 1] == [end], "only the end may follow"


def test_a_section_has_several_calls_after_one_trigger() -> None:
    tokenizer = ByteTokenizer(["[TOOL_CALLS]"])
    call = '{"name": "n", "arguments": {"a": 1}}'
    several = triggered_calls(MISTRAL, tokenizer, [ToolRule(NUMBER)], parallel=True)
    assert accepted(several, f"[TOOL_CALLS][{call}]", tokenizer)
    assert accepted(several, f"[TOOL_CALLS] [{call}, {call}]", tokenizer)
    assert not accepted(several, f"[TOOL_CALLS][{call}", tokenizer)


def test_a_control_token_is_no_text() -> None:
    tokenizer = ByteTokenizer(["<tool_call>", "</tool_call>"])
    grammar = whole_calls(HERMES, tokenizer, [ToolRule(NUMBER)], parallel=True)
    assert accepted(grammar, ONE, tokenizer)
    typed = tokenizer.encode(ONE, parse_control_tokens=False)
    assert not Vocabulary.of(tokenizer).accepts_tokens(grammar, typed)


def written(syntax: Any, schema: dict[str, Any], exactness: Exactness = Exactness.EXACT) -> str:
    return arguments_grammar(syntax, ByteTokenizer(), ToolRule(Tool(name="f", parameters=schema), exactness))


def test_optional_parameters_come_in_order() -> None:
    properties = {name: {"type": "string"} for name in "abc"}
    grammar = written(QWEN, {"type": "object", "properties": properties, "required": ["b"]})

    def call(names: str) -> str:
        given = "".join(f"<parameter={name}>\nx\n</parameter>\n" for name in names)
        return f"<tool_call>\n<function=f>\n{given}</function>\n</tool_call>"

    assert all(accepted(grammar, call(names)) for names in ("b", "ab", "bc", "abc"))
    assert not any(accepted(grammar, call(names)) for names in ("", "a", "ba", "cb", "bb", "bd"))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ["x", "", 'a\nb </param> "q" é', "5"], []),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["abd", ""]),
        ({"type": "string", "pattern": "b"}, ["abc", "b"], ["ac"]),
        ({"enum": ["red", "dark red"]}, ["red", "dark red"], ["blue", '"red"']),
        ({"type": "integer", "minimum": 3}, ["3", "12"], ["2", "x", "1.5"]),
        ({"type": ["integer", "null"]}, ["3", "null"], ["x"]),
        (
            {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "integer", "minimum": 100}]},
            ["ab", "100"],
            ["abc", "7"],
        ),
        ({"type": "boolean"}, ["true"], ["True", "yes"]),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]},
            ['{"a": 1}'],
            ['{"a": "x"}', "{}"],
        ),
        ({"type": "array", "items": {"enum": [1, 2]}}, ["[1, 2]", "[]"], ["[3]", "1"]),
        ({}, ["x", "5", "{"], []),
    ],
    ids=str,
)
def test_values_as_bare_text(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    whole = {
        "type": "object",
        "properties": {"p": schema},
        "required": ["p"],
        "$defs": {"n": {"type": "integer"}},
    }
    grammar = written(QWEN, whole)
    calls = {
        value: f"<tool_call>\n<function=f>\n<parameter=p>\n{value}\n</parameter>\n</function>\n</tool_call>"
        for value in (*good, *bad)
    }
    assert [value for value, call in calls.items() if not accepted(grammar, call)] == bad


UNENFORCEABLE: list[dict[str, Any]] = [
    {"type": "string", "format": "email"},
    {"type": "string", "contentEncoding": "base64"},
    {"allOf": [{"type": "string"}, {"minLength": 1}]},
]


@pytest.mark.parametrize("name", ["qwen-xml", "glm", "deepseek-v3.2"])
@pytest.mark.parametrize("schema", UNENFORCEABLE, ids=str)
def test_what_cannot_be_enforced_in_bare_text_is_said(name: str, schema: dict[str, Any]) -> None:
    whole = {"type": "object", "properties": {"p": schema}}
    with pytest.raises(UnsupportedSchemaError, match=r"not supported for this model's format of calls"):
        written(calls_of(name), whole)


@pytest.mark.parametrize("name", FORMATS)
def test_any_arguments(name: str) -> None:
    """A schema that only says that the arguments are an object is no empty list of parameters."""
    grammar = written(calls_of(name), {"type": "object"})
    texts = {
        "hermes": '<tool_call>\n{"name": "f", "arguments": {"q": [1]}}\n</tool_call>',
        "qwen-xml": "<tool_call>\n<function=f>\n<parameter=q>\nx\n</parameter>\n</function>\n</tool_call>",
        "lfm2": 'f(q=[1, "x", None], r={"a": True})',
        "gemma4": '<|tool_call>call:f{q:[1,<|"|>x<|"|>],r:{a:true}}<tool_call|>',
    }
    assert name not in texts or accepted(grammar, texts[name])


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("lfm2", "f(a='x', b=1, c=[True, None], d={\"k\": 1.5})"),
        ("lfm2", 'f(a="it\'s", c=[])'),
        ("gemma4", '<|tool_call>call:f{a:<|"|>x, "y"<|"|>,b:1,c:[true,null],d:{k:1.5}}<tool_call|>'),
    ],
)
def test_literals_of_other_languages(name: str, call: str) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "integer", "maximum": 5},
            "c": {"type": "array", "items": {"type": ["boolean", "null"]}},
            "d": {"type": "object", "properties": {"k": {"type": "number"}}},
        },
        "required": ["a"],
    }
    grammar = written(calls_of(name), schema)
    assert accepted(grammar, call)
    assert not accepted(grammar, call.replace("b=1", "b=7").replace("b:1", "b:7").replace("c=[]", "c=[1]"))
