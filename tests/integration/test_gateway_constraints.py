"""Tests of rules for answers, in all APIs: what reaches the scheduler, and what is refused before anything is queued."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from gateway.constraints.compiler import MAX_WAITING, GrammarCompiler, GrammarLimits
from pagoda.wire.constraint import Constraint
from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer

USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
UNIQUE = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
UNMEETABLE = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]}


def chat(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 9, **fields}


def json_schema(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


# The path of the route, a body with the schema, and the field that an error names.
WAYS = [
    ("/v1/chat/completions", lambda schema: chat(json_schema(schema)), "response_format.json_schema.schema"),
    ("/v1/completions", lambda schema: {"prompt": "Hi", **json_schema(schema)}, "response_format.json_schema.schema"),
    ("/v1/chat/completions", lambda schema: chat({"guided_json": schema}), "guided_json"),
    ("/v1/chat/completions", lambda schema: chat({"guided_json": json.dumps(schema)}), "guided_json"),
    ("/v1/completions", lambda schema: {"prompt": "Hi", "json_schema": schema}, "json_schema"),
    ("/v1/chat/completions", lambda schema: chat({"structured_outputs": {"json": schema}}), "structured_outputs.json"),
    ("/api/chat", lambda schema: {"model": "tiny", "messages": [USER], "stream": False, "format": schema}, "format"),
    ("/api/generate", lambda schema: {"model": "tiny", "prompt": "Hi", "stream": False, "format": schema}, "format"),
    (
        "/v1/messages",
        lambda schema: chat({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
        "output_config.format.schema",
    ),
]


def error_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]} {way[2]}")
async def test_a_schema_in_each_api(gateway: RunningGateway, way: Any) -> None:
    path, body, field = way
    gateway.scheduler.answer = lambda *_: Answer(text='{"a": 1}')
    accepted = await gateway.http.post(path, json=body(SCHEMA))
    assert accepted.status_code == 200, accepted.text
    (request,) = gateway.scheduler.requests
    constraint = Constraint.from_proto(request.sampling.constraint)
    assert '"integer' in constraint.grammar.replace("\\", "") and len(constraint.digest) == 32
    for schema, reason in (
        (UNIQUE, "'uniqueItems' is not supported (at properties.a)"),
        (UNMEETABLE, "no value can satisfy it: required property 'a' is unsatisfiable"),
    ):
        refused = await gateway.http.post(path, json=body(schema))
        assert refused.status_code == 400 and error_of(refused).startswith(f"{field}: {reason}")
    assert len(gateway.scheduler.requests) == 1, "nothing was queued"


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "required"),
        (
            {"response_format": {"type": "text", "json_schema": {"schema": {}}}},
            "response_format.json_schema",
            "only allowed",
        ),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format", "not possible together"),
        ({"guided_choice": ["a"], "grammar": 'root ::= "a"'}, "guided_choice", "not possible together with grammar"),
        ({"structured_outputs": {}}, "structured_outputs.json", "exactly one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", "exactly one of"),
        (
            {"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
            "structured_outputs.disable_any_whitespace",
            "not",
        ),
        ({"structured_outputs": {"regex": "a(?=b)"}}, "structured_outputs.regex", "look-around"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "must be a JSON Schema"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "only allowed together with guided_json"),
        ({"guided_json": SCHEMA, "guided_whitespace_pattern": "("}, "guided_json", "regex"),
        ({"grammar": "anything"}, "grammar", "must be a grammar in GBNF"),
        ({"grammar": "start: missing"}, "grammar", "missing"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_named(gateway: RunningGateway, fields: dict[str, Any], param: str, reason: str) -> None:
    for path, body in (("/v1/chat/completions", chat(fields)), ("/v1/completions", {"prompt": "Hi", **fields})):
        response = await gateway.http.post(path, json=body)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param and reason in error_of(response)
    assert not gateway.scheduler.requests


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "text"}}, {"grammar": ""}, {"guided_grammar": ""}, {"guided_json": None}],
    ids=str,
)
async def test_no_rule_is_no_constraint(gateway: RunningGateway, fields: dict[str, Any]) -> None:
    await gateway.http.post("/v1/chat/completions", json=chat(fields))
    assert not gateway.scheduler.requests[0].sampling.HasField("constraint")
    assert not gateway.app.state.gateway.grammars._pool._idle, "no process was started"


def with_tool(schema: Any, **fields: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema, "strict": fields.pop("strict", None)}
    return chat({"tools": [{"type": "function", "function": function}], **fields})


async def test_a_tool_that_cannot_be_enforced(gateway: RunningGateway) -> None:
    short = {"properties": {"a": {"uniqueItems": True}}}  # the tool is in the prompt, and the window is small
    for fields in ({"strict": True}, {"tool_choice": "required"}):
        response = await gateway.http.post("/v1/chat/completions", json=with_tool(short, **fields))
        assert response.status_code == 400 and response.json()["error"]["param"] == "tools.0.function.parameters"
        assert "'uniqueItems' is not supported (at properties.a)" in error_of(response)
    assert not gateway.scheduler.requests
    # The model decides whether it calls the tool, and nobody demands that the arguments obey the schema to the letter.
    for schema in (short, {"properties": {"a": False}, "required": ["a"]}):
        response = await gateway.http.post("/v1/chat/completions", json=with_tool(schema))
        assert response.status_code == 200, response.text
    assert len(gateway.scheduler.requests) == 2


async def test_a_bomb_is_refused_and_harms_no_other(gateway: RunningGateway) -> None:
    state = gateway.app.state.gateway
    object.__setattr__(state, "grammars", GrammarCompiler(GrammarLimits(cpu_s=0.2)))
    rules = "".join(f'\nr{number}: "x{number}" start' for number in range(9000))
    bomb = "start: " + " | ".join(f'"k{number}" r{number}' for number in range(9000)) + rules
    bad, good = await asyncio.gather(
        gateway.http.post("/v1/chat/completions", json=chat({"grammar": bomb})),
        gateway.http.post("/v1/chat/completions", json=chat({"guided_json": SCHEMA})),
    )
    assert bad.status_code == 400 and error_of(bad) == "grammar: needs more than 0.2 s of processor time to compile"
    assert good.status_code == 200


async def test_too_many_new_grammars_are_too_many_requests(gateway: RunningGateway) -> None:
    state = gateway.app.state.gateway
    await gateway.http.post("/v1/chat/completions", json=chat({"guided_json": SCHEMA}))
    state.grammars._running.update({(b"", bytes([number])): asyncio.Future() for number in range(MAX_WAITING)})
    response = await gateway.http.post("/v1/chat/completions", json=chat({"guided_regex": "new"}))
    assert response.status_code == 429 and response.headers["retry-after"]
    known = await gateway.http.post("/v1/chat/completions", json=chat({"guided_json": SCHEMA}))
    assert known.status_code == 200, "its verdict is kept"
