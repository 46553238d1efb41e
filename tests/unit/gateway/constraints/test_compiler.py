"""Tests of the check of grammars in processes: reasons, limits, crashes, overload."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.constraints.compiler import MAX_WAITING, GrammarCompiler, GrammarLimits
from gateway.constraints.compose import text_constraint
from gateway.constraints.grammar_rule import grammar_rule
from gateway.constraints.json_rule import json_schema_rule
from gateway.constraints.refusals import with_place
from gateway.constraints.text_rule import MAX_GRAMMAR_CHARACTERS
from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from tests.unit.gateway.constraints.matching import tiny_tokenizer


@pytest.fixture
async def compiler() -> AsyncIterator[GrammarCompiler]:
    compiler = GrammarCompiler()
    yield compiler
    compiler.close()


async def problem(compiler: GrammarCompiler, schema: Any) -> str | None:
    rule = json_schema_rule(schema, "f")
    found = await compiler.problem_of(tiny_tokenizer(), text_constraint(rule, tiny_tokenizer()).grammar)
    return None if found is None else with_place(found, schema)


REFUSED: list[tuple[Any, str]] = [
    ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "'uniqueItems' is not supported (at properties.a)"),
    ({"anyOf": [{"not": {}}]}, "'not' is not supported (at anyOf.0)"),
    ({"if": {}, "then": {}}, "'if' and 'then' are not supported (at the top level)"),
    ({"contains": {"type": "string"}, "type": "array"}, "'contains' is not supported (at the top level)"),
    ({"items": {"type": "string", "format": "regex"}}, "the format 'regex' is not supported (at items)"),
    ({"$ref": "https://a.example/b"}, "'$ref' to 'https://a.example/b' is not supported: a schema may refer"),
    ({"$ref": "#/$defs/a"}, "'$ref' to '#/$defs/a' leads nowhere (at the top level)"),
    ({"oneOf": [{"minLength": 1, "type": "string"}, {"type": "string"}]}, "'oneOf' is supported only if its branches"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around in a regular expression is not supported"),
    (
        {"properties": {"a": {"type": "string", "pattern": "^(?!a)b"}}},
        "look-around in a regular expression is not supported (at properties.a)",
    ),
    ({"type": "number", "minimum": 1e20, "maximum": 1e25}, "'minimum' or 'maximum' is too large (at the top level)"),
    ({"type": "string", "pattern": r"a\bc"}, "look-around in a regular expression is not supported"),
    ({"type": "strin"}, "Invalid type: strin"),
    # Schemas that no value satisfies.
    (
        {"type": "integer", "minimum": 5, "maximum": 3},
        "no value can satisfy it: minimum (5) is greater than maximum (3)",
    ),
    ({"enum": []}, "no value can satisfy it"),
    (False, "no value can satisfy it"),
    (
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        "no value can satisfy it: required property 'a'",
    ),
    ({"type": "array", "minItems": 3, "maxItems": 1}, "no value can satisfy it: minItems (3)"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "no value can satisfy it"),
    ({"type": "string", "minLength": 3, "maxLength": 1}, "no value can satisfy it"),
    ({"const": 5, "type": "string"}, "no value can satisfy it"),
]
ENDLESS = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {
        "$defs": {
            "a": {"anyOf": [{"$ref": "#/$defs/b"}]},
            "b": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1},
        },
        "allOf": [{"$ref": "#/$defs/a"}],
    },
]
SUPPORTED: list[Any] = [
    True,
    {},
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {
        "$defs": {"a": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/a"}}]}},
        "$ref": "#/$defs/a",
    },
    {"oneOf": [{"type": "object", "properties": {"k": {"const": c}}, "required": ["k"]} for c in "ab"]},
    {"type": "number", "multipleOf": 0.5},
    {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "string"}}}]},
    {"type": "object", "patternProperties": {"^x-": {"type": "string"}}, "minProperties": 1, "maxProperties": 3},
    {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
    *(
        {"type": "string", "format": name}
        for name in ("date-time", "date", "time", "email", "uuid", "uri", "ipv4", "ipv6")
    ),
    {
        "title": "T",
        "description": "D",
        "default": 5,
        "examples": [1],
        "$comment": "c",
        "deprecated": True,
        "type": "integer",
    },
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=str)
async def test_a_refusal_names_the_keyword_and_its_place(shared: GrammarCompiler, schema: Any, reason: str) -> None:
    found = await problem(shared, schema)
    assert found is not None and found.startswith(reason)
    assert "json" not in found and "\n" not in found


@pytest.fixture(scope="module")
def shared() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler()
    yield compiler
    compiler.close()


@pytest.mark.parametrize("schema", ENDLESS, ids=str)
def test_a_schema_that_requires_itself_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequestError, match="f: no value can satisfy it: it requires itself without end"):
        json_schema_rule(schema, "f")


@pytest.mark.parametrize("schema", SUPPORTED, ids=str)
async def test_what_is_supported(shared: GrammarCompiler, schema: Any) -> None:
    assert await problem(shared, schema) is None


@pytest.mark.parametrize(
    "grammar",
    [
        "start: (",
        "start: missing",
        'start: "a" | /(/',
        "start: X\nX: /a/ & /b/",
        "start: /a(?!b)/",
        "%llguidance {\nstart: /a/",
    ],
)
async def test_a_grammar_that_is_not_valid(shared: GrammarCompiler, grammar: str) -> None:
    rule = text_constraint(grammar_rule(grammar, "f"), tiny_tokenizer())
    found = await shared.problem_of(tiny_tokenizer(), rule.grammar)
    assert found and "\n" not in found


async def test_nothing_is_started_until_a_grammar_comes(compiler: GrammarCompiler) -> None:
    assert not compiler._pool._idle
    assert await compiler.problem_of(tiny_tokenizer(), 'start: "a"') is None
    assert len(compiler._pool._idle) == 1


async def test_a_verdict_is_kept(compiler: GrammarCompiler) -> None:
    first = await problem(compiler, {"enum": []})
    compiler._pool.close_idle_processes()
    assert await problem(compiler, {"enum": []}) == first
    assert not compiler._pool._idle


BOMB = (
    "start: " + " | ".join(f'"k{i}" a{i}' for i in range(9000)) + "".join(f'\na{i}: "x{i}" start' for i in range(9000))
)


async def test_a_bomb_reaches_the_limit_and_harms_no_other() -> None:
    compiler = GrammarCompiler(GrammarLimits(cpu_s=0.1))
    bomb, other = await asyncio.gather(
        compiler.problem_of(tiny_tokenizer(), BOMB), compiler.problem_of(tiny_tokenizer(), 'start: "a"')
    )
    assert bomb == "needs more than 0.1 s of processor time to compile" and other is None
    compiler.close()


async def test_memory_is_limited() -> None:
    compiler = GrammarCompiler(GrammarLimits(memory_bytes=80 << 20, cpu_s=60))
    found = await compiler.problem_of(tiny_tokenizer(), BOMB)
    assert found is not None and "80 MiB of memory" in found
    assert await compiler.problem_of(tiny_tokenizer(), 'start: "a"') is None
    compiler.close()


async def test_a_process_that_was_killed_is_replaced(compiler: GrammarCompiler) -> None:
    await compiler.problem_of(tiny_tokenizer(), 'start: "a"')
    os.kill(compiler._pool._idle[-1]._process.pid, signal.SIGKILL)
    assert await compiler.problem_of(tiny_tokenizer(), 'start: "b"') is None


async def test_many_at_once_are_refused_and_the_same_ones_wait_together(compiler: GrammarCompiler) -> None:
    same = [compiler.problem_of(tiny_tokenizer(), 'start: "same"') for _ in range(50)]
    assert await asyncio.gather(*same) == [None] * 50
    many = [compiler.problem_of(tiny_tokenizer(), f'start: "{number}"') for number in range(MAX_WAITING + 5)]
    results = await asyncio.gather(*many, return_exceptions=True)
    refused = [each for each in results if isinstance(each, GatewayError)]
    assert len(refused) == 5 and all(each.kind is ErrorKind.OVERLOADED and each.retry_after_s for each in refused)
    assert results.count(None) == MAX_WAITING


async def test_a_client_that_leaves_does_not_end_the_check_of_others(compiler: GrammarCompiler) -> None:
    first = asyncio.create_task(compiler.problem_of(tiny_tokenizer(), 'start: "a"'))
    await compiler._vocabulary(tiny_tokenizer())
    second = asyncio.create_task(compiler.problem_of(tiny_tokenizer(), 'start: "a"'))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is None


async def test_a_grammar_that_is_too_long(compiler: GrammarCompiler) -> None:
    found = await compiler.problem_of(tiny_tokenizer(), json.dumps({"a": "x" * MAX_GRAMMAR_CHARACTERS}))
    assert found is not None and found.startswith("too long")
    assert not compiler._pool._idle
