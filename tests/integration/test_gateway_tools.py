"""Tests of tool calls and reasoning in chat completions: the JSON on the wire, and the official client."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel

from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import write_tiny_gguf

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
USER = {"role": "user", "content": "What time is it?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Return the time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "Zürich"}}\n</tool_call>'
ARGUMENTS = {"zone": "Zürich"}


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    write_tiny_gguf(short_path / f"{MODEL}.gguf", chat_template=TEMPLATE, max_position=4096)
    async with running_gateway(short_path) as running:
        running.scheduler.models[0].max_model_len = 4096
        yield running


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def script(gateway: RunningGateway, text: str, tokens_per_event: int = 1, **fields: Any) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=text, tokens_per_event=tokens_per_event, **fields)


async def chat(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post("/v1/chat/completions", json={"messages": [USER], "tools": [TOOL], **fields})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


async def chunks(gateway: RunningGateway, **fields: Any) -> list[dict[str, Any]]:
    body = {"messages": [USER], "tools": [TOOL], "stream": True, **fields}
    response = await gateway.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    *events, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def prompt_of(gateway: RunningGateway) -> str:
    return bytes(each for each in gateway.scheduler.requests[-1].prompt_token_ids if each < 256).decode()


async def test_a_call_is_part_of_the_message(gateway: RunningGateway) -> None:
    script(gateway, f"I look.\n{CALL}")
    (choice,) = (await chat(gateway))["choices"]
    (call,) = choice["message"].pop("tool_calls")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": "I look.", "refusal": None}
    assert call.pop("id")
    function = call["function"]
    assert call["type"] == "function" and function["name"] == "now" and json.loads(function["arguments"]) == ARGUMENTS
    assert json.dumps(TOOL, ensure_ascii=False) in prompt_of(gateway)


async def test_an_answer_that_is_only_calls_has_no_content(gateway: RunningGateway) -> None:
    script(gateway, f"{CALL}\n{CALL}")
    (choice,) = (await chat(gateway))["choices"]
    assert choice["message"]["content"] is None
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == 2


async def test_a_streamed_call_begins_with_its_id_and_name(gateway: RunningGateway) -> None:
    script(gateway, f"<think>\nhm\n</think>\n\nI look.\n{CALL}\n{CALL}")
    streamed = await chunks(gateway, stream_options={"include_usage": True})
    *deltas, last, usage = streamed
    assert last["choices"][0]["finish_reason"] == "tool_calls" and last["choices"][0]["delta"] == {}
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    keys = [" ".join(each["choices"][0]["delta"]) for each in deltas]
    assert list(dict.fromkeys(keys)) == ["role content", "reasoning reasoning_content", "content", "tool_calls"]
    first, *_ = pieces = [call for each in deltas for call in each["choices"][0]["delta"].get("tool_calls", ())]
    assert first["index"] == 0 and first["id"] and first["type"] == "function" and first["function"]["name"] == "now"
    for index in (0, 1):
        mine = [piece for piece in pieces if piece["index"] == index]
        assert (
            len([piece for piece in mine if "id" in piece])
            == len([each for each in mine if "name" in each["function"]])
            == 1
        )
        assert json.loads("".join(piece["function"]["arguments"] for piece in mine)) == ARGUMENTS
    assert [piece["index"] for piece in pieces] == sorted(piece["index"] for piece in pieces)


ANSWERS = [
    f"I look.\n{CALL}",
    f"{CALL}\n{CALL}",
    f"<think>\nhm\n</think>\n\n{CALL}",
    "<think>\nhm\n</think>\n\nNoon.",
    "Noon.",
    "<tool_call>\n{oops",
    '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
    f"{CALL} and more",
]


@pytest.mark.parametrize("tokens_per_event", [1, 7, 1000])
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_stream_is_the_whole_answer(
    gateway: RunningGateway, client: openai.AsyncOpenAI, answer: str, tokens_per_event: int
) -> None:
    script(gateway, answer, tokens_per_event)
    request: Any = {"model": MODEL, "messages": [USER], "tools": [TOOL]}
    whole = (await client.chat.completions.create(**request)).choices[0]
    async with client.chat.completions.stream(**request) as stream:
        async for _ in stream:
            pass
        streamed = (await stream.get_final_completion()).choices[0]
    assert streamed.finish_reason == whole.finish_reason
    assert _shown(streamed.message) == _shown(whole.message)


def _shown(message: ChatCompletionMessage) -> Any:
    calls = [
        (call.function.name, call.function.arguments) for call in message.tool_calls or () if call.type == "function"
    ]
    return message.content, calls, getattr(message, "reasoning", None), getattr(message, "reasoning_content", None)


async def test_text_that_is_no_call_is_content(gateway: RunningGateway) -> None:
    script(gateway, "<tool_call>\n{oops")
    (choice,) = (await chat(gateway))["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == "<tool_call>\n{oops"
    assert "tool_calls" not in choice["message"]


async def test_calls_are_text_if_none_may_be_made(gateway: RunningGateway) -> None:
    script(gateway, CALL)
    (choice,) = (await chat(gateway, tool_choice="none"))["choices"]
    assert choice["message"]["content"] == CALL and choice["finish_reason"] == "stop"
    assert "Return the time" not in prompt_of(gateway)


async def test_a_call_that_a_limit_cuts_is_no_finished_call(gateway: RunningGateway) -> None:
    script(gateway, CALL)
    (choice,) = (await chat(gateway, max_tokens=len(CALL) - 20))["choices"]
    assert choice["finish_reason"] == "length"


async def test_the_reason_of_an_answer_without_calls_is_true(gateway: RunningGateway) -> None:
    # Other servers say `tool_calls` because a call was required, though the answer has none.
    script(gateway, "Noon.")
    (choice,) = (await chat(gateway, tool_choice="required"))["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == "Noon."


async def test_each_choice_has_its_own_calls(gateway: RunningGateway) -> None:
    answers = (CALL, "Noon.", CALL)
    gateway.scheduler.answer = lambda _, index: Answer(text=answers[index])
    choices = (await chat(gateway, n=3))["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["tool_calls", "stop", "tool_calls"]
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in (choices[0], choices[2])]
    assert len(set(ids)) == 2


async def test_functions_are_the_older_form(gateway: RunningGateway) -> None:
    script(gateway, CALL)
    fields: dict[str, Any] = {"tools": None, "functions": [TOOL["function"]], "function_call": "auto"}
    (choice,) = (await chat(gateway, **fields))["choices"]
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    assert json.loads(choice["message"]["function_call"]["arguments"]) == ARGUMENTS
    streamed = [each["choices"][0] for each in await chunks(gateway, **fields)]
    pieces = [each["delta"]["function_call"] for each in streamed if "function_call" in each["delta"]]
    assert pieces[0]["name"] == "now" and json.loads("".join(each["arguments"] for each in pieces)) == ARGUMENTS
    assert streamed[-1]["finish_reason"] == "function_call"


async def test_reasoning_is_apart_under_both_names(gateway: RunningGateway) -> None:
    script(gateway, "<think>\nhm\n</think>\n\nNoon.")
    body = await chat(gateway)
    message = body["choices"][0]["message"]
    assert message["content"] == "Noon." and message["reasoning"].strip() == "hm"
    assert message["reasoning_content"] == message["reasoning"]
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] < body["usage"]["completion_tokens"]


async def test_reasoning_can_be_left_out(gateway: RunningGateway) -> None:
    script(gateway, "<think>\nhm\n</think>\n\nNoon.")
    message = (await chat(gateway, include_reasoning=False))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Noon.", "refusal": None}
    deltas = [each["choices"][0]["delta"] for each in await chunks(gateway, include_reasoning=False)]
    assert not any("reasoning" in delta or "reasoning_content" in delta for delta in deltas)


async def test_a_model_that_does_not_think_has_only_text(gateway: RunningGateway) -> None:
    script(gateway, "<think>Noon.")
    fields = {"tools": None, "chat_template_kwargs": {"enable_thinking": False}}
    assert (await chat(gateway, **fields))["choices"][0]["message"]["content"] == "<think>Noon."


async def test_the_log_probabilities_are_of_all_tokens(gateway: RunningGateway) -> None:
    script(gateway, f"I look.\n{CALL}")
    (choice,) = (await chat(gateway, logprobs=True))["choices"]
    expected = f"I look.\n{CALL}".encode()
    assert bytes(byte for each in choice["logprobs"]["content"] for byte in each["bytes"]) == expected
    streamed = [each["choices"][0]["logprobs"] for each in await chunks(gateway, logprobs=True)]
    assert bytes(byte for each in streamed if each for token in each["content"] for byte in token["bytes"]) == expected


class now(BaseModel):  # the client takes the tool's name from the class
    """Return the time."""

    zone: str


async def test_the_clients_parse_reads_arguments(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    script(gateway, CALL)
    tool = openai.pydantic_function_tool(now)
    request: Any = {"model": MODEL, "messages": [USER], "tools": [tool]}
    parsed = await client.chat.completions.parse(**request)
    (call,) = list(parsed.choices[0].message.tool_calls or ())
    assert call.function.parsed_arguments == now(zone="Zürich")


async def test_the_clients_stream_helper_sees_the_call(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    script(gateway, CALL)
    kinds: list[str] = []
    request: Any = {"model": MODEL, "messages": [USER], "tools": [TOOL]}
    async with client.chat.completions.stream(**request) as stream:
        async for event in stream:
            kinds.append(event.type)
            if event.type == "tool_calls.function.arguments.done":
                assert json.loads(event.arguments) == ARGUMENTS and event.name == "now"
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds


async def test_a_call_and_its_result_go_back_to_the_model(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    script(gateway, f"<think>\nhm\n</think>\n\nI look.{CALL}")
    request: Any = {"model": MODEL, "tools": [TOOL]}
    asked: Any = [USER]
    message = (await client.chat.completions.create(messages=asked, **request)).choices[0].message
    (call,) = list(message.tool_calls or ())
    first = gateway.scheduler.requests[-1]
    result = {"role": "tool", "tool_call_id": call.id, "content": "noon"}
    answered: Any = [USER, message.model_dump(exclude_none=True), result]
    await client.chat.completions.create(messages=answered, **request)
    second = gateway.scheduler.requests[-1]
    # The next prompt begins with the first one and with the model's own tokens, so the prefix cache has them.
    told = [*first.prompt_token_ids, *f"<think>\nhm\n</think>\n\nI look.{CALL}".encode()]
    assert list(second.prompt_token_ids)[: len(told)] == told
    assert "tool\nnoon" in prompt_of(gateway)


async def test_earlier_function_calls_go_back_too(gateway: RunningGateway) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": '{"zone": "Zürich"}'}}
    await chat(gateway, messages=[USER, called, {"role": "function", "name": "now", "content": "noon"}])
    assert CALL in prompt_of(gateway) and "tool\nnoon" in prompt_of(gateway)


async def test_tools_count_in_tokenize(gateway: RunningGateway) -> None:
    response = await gateway.http.post("/tokenize", json={"messages": [USER], "tools": [TOOL]})
    await chat(gateway)
    assert response.json()["tokens"] == list(gateway.scheduler.requests[-1].prompt_token_ids)


NAMED = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize(
    ("fields", "has_grammar", "has_trigger"),
    [
        ({}, True, True),
        ({"tool_choice": "required"}, True, False),
        ({"tool_choice": NAMED}, True, False),
        ({"tool_choice": "none"}, False, False),
        ({"tool_choice": "none", "response_format": {"type": "json_object"}}, True, False),
        ({"tools": None, "functions": [TOOL["function"]], "function_call": {"name": "now"}}, True, False),
    ],
)
async def test_a_choice_of_tools_binds_the_answer(
    gateway: RunningGateway, fields: dict[str, Any], has_grammar: bool, has_trigger: bool
) -> None:
    await chat(gateway, **fields)
    constraint = gateway.scheduler.requests[-1].sampling.constraint
    assert bool(constraint.grammar) == has_grammar and bool(constraint.triggers) == has_trigger


async def test_a_budget_bounds_the_reasoning(gateway: RunningGateway) -> None:
    await chat(gateway, tools=None, thinking_token_budget=7)
    reasoning = gateway.scheduler.requests[-1].sampling.constraint.reasoning
    assert reasoning.budget == 7 and not reasoning.is_open and bytes(reasoning.closing_token_ids).strip() == b"</think>"
    await chat(gateway, tools=None, thinking_token_budget=7, chat_template_kwargs={"enable_thinking": False})
    assert not gateway.scheduler.requests[-1].sampling.HasField("constraint")


async def test_the_effort_is_ignored_by_name_if_the_template_knows_no_levels(gateway: RunningGateway) -> None:
    response = await gateway.http.post("/v1/chat/completions", json={"messages": [USER], "reasoning_effort": "low"})
    assert response.headers["x-pagoda-ignored"] == "reasoning_effort"
