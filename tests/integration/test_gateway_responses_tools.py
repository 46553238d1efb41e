"""Tests of tools and reasoning in the Responses API, with a template that has both, and scripted answers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import write_tiny_gguf
from tests.integration.test_gateway_responses import create, prompt, stream

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Lima"}}\n</tool_call>'


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    template = (Path(__file__).parents[1] / "templates" / "agent.jinja").read_text()
    write_tiny_gguf(short_path / "tiny.gguf", max_position=4096, chat_template=template)
    async with running_gateway(short_path, max_model_len=4096) as running:
        yield running


def types_of(events: list[dict[str, Any]]) -> list[str]:
    """Return the events' types. Events of the same type that follow each other are one."""
    types = [event["type"].removeprefix("response.") for event in events]
    return [kind for index, kind in enumerate(types) if index == 0 or kind != types[index - 1]]


async def test_a_call_is_an_item(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=CALL)
    response = await create(gateway, tools=[TOOL])
    assert "Weather of a city" in prompt(gateway)
    [call] = response["output"]
    assert call.pop("id").startswith("fc_")
    assert call.pop("call_id")
    assert json.loads(call.pop("arguments")) == {"city": "Lima"}
    assert call == {"type": "function_call", "status": "completed", "name": "weather"}
    assert response["status"] == "completed"
    assert response["tools"] == [{**TOOL, "strict": False}]


async def test_the_events_of_a_text_and_two_calls_come_in_order(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=f"Let me look.\n{CALL}\n{CALL.replace('Lima', 'Quito')}")
    events = await stream(gateway, tools=[TOOL])
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    message = [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert types_of(events) == ["created", "in_progress", *message, *call, *call, "completed"]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    for index, item in enumerate(output[1:], start=1):
        told = [event for event in events if event.get("output_index") == index]
        deltas = "".join(event["delta"] for event in told if "delta" in event)
        assert deltas == item["arguments"] == told[-2]["arguments"]
        assert told[0]["item"] == {**item, "arguments": "", "status": "in_progress"} and told[-1]["item"] == item
    assert output[1]["call_id"] != output[2]["call_id"]


async def test_a_cut_call_is_incomplete(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=CALL)
    response = await create(gateway, tools=[TOOL], max_output_tokens=len(CALL) - 25)
    assert response["status"] == "incomplete"
    [call] = response["output"]
    assert call["type"] == "function_call" and call["status"] == "incomplete"


@pytest.mark.parametrize("by_id", [False, True], ids=["items sent again", "previous_response_id"])
async def test_a_result_continues_the_conversation(gateway: RunningGateway, by_id: bool) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=CALL)
    first = await create(gateway, tools=[TOOL])
    gateway.scheduler.answer = lambda *_: Answer(text="Sunny in Lima.")
    before = prompt(gateway)
    result = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "22 degrees"}
    if by_id:
        second = await create(gateway, tools=[TOOL], input=[result], previous_response_id=first["id"])
    else:
        items = [{"role": "user", "content": "Hi"}, *first["output"], result]
        second = await create(gateway, tools=[TOOL], input=items)
    assert second["output"][0]["content"][0]["text"] == "Sunny in Lima."
    assert prompt(gateway).startswith(before), "the cached prefix grows"
    assert '"city"' in prompt(gateway).removeprefix(before) and "22 degrees" in prompt(gateway)


async def test_a_result_needs_its_call(gateway: RunningGateway) -> None:
    first = await create(gateway, tools=[TOOL])
    result = {"type": "function_call_output", "call_id": "call_other", "output": "22 degrees"}
    error = await create(gateway, 400, input=[result], previous_response_id=first["id"])
    assert error["error"]["param"] == "input.0.call_id"


async def test_tools_may_be_chosen(gateway: RunningGateway) -> None:
    other = {**TOOL, "name": "news"}
    await create(gateway, tools=[TOOL, other], tool_choice="none")
    assert "weather" not in prompt(gateway)
    for choice in (
        "auto",
        "required",
        {"type": "function", "name": "news"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "news"}]},
    ):
        response = await create(gateway, tools=[TOOL, other], tool_choice=choice)
        assert response["tool_choice"] == choice
    error = await create(gateway, 400, tools=[TOOL], tool_choice={"type": "function", "name": "news"})
    assert error["error"]["param"] == "tool_choice"


async def test_effort_none_ends_reasoning_before_it_begins(gateway: RunningGateway) -> None:
    response = await create(gateway, reasoning={"effort": "none"})
    assert prompt(gateway).endswith("<think>\n\n</think>\n\n")
    assert response["reasoning"] == {"effort": "none", "summary": None}


async def test_reasoning_is_an_item_before_the_answer(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="<think>\nHm, easy.\n</think>\n\nLima.")
    events = await stream(gateway)
    assert types_of(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = events[-1]["response"]
    reasoning, message = response["output"]
    assert reasoning.pop("id").startswith("rs_")
    content = [{"type": "reasoning_text", "text": "Hm, easy."}]
    assert reasoning == {"type": "reasoning", "status": "completed", "summary": [], "content": content}
    assert message["content"][0]["text"] == "Lima."
    details = response["usage"]["output_tokens_details"]
    assert 0 < details["reasoning_tokens"] < response["usage"]["output_tokens"]


async def test_reasoning_goes_back_into_the_prompt_with_the_call_that_follows_it(gateway: RunningGateway) -> None:
    answer = f"<think>\nI need the weather.\n</think>\n\nLet me look.\n{CALL}"
    gateway.scheduler.answer = lambda *_: Answer(text=answer)
    first = await create(gateway, tools=[TOOL])
    assert [item["type"] for item in first["output"]] == ["reasoning", "message", "function_call"]
    before = prompt(gateway)
    result = {"type": "function_call_output", "call_id": first["output"][2]["call_id"], "output": "22 degrees"}
    await create(gateway, tools=[TOOL], input=[result], previous_response_id=first["id"])
    assert prompt(gateway).startswith(before + answer), "what the model wrote is cached too"
