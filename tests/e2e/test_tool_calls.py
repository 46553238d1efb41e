"""Tests of tool calls on the default model, which is too small to call tools by itself: the grammar makes its calls valid."""

import json
from typing import Any

import jsonschema_rs
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

MODEL = "smollm2:135m"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 24},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NOW: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Return the time",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
QUESTION = {"role": "user", "content": "How is the weather in Lima?"}
NUM_TURNS = 20


def check_call(call: Any) -> None:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, NOW)}
    jsonschema_rs.validate(schemas[call.function.name], json.loads(call.function.arguments))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_call_that_is_asked_for_is_made_and_valid(openai_client: OpenAI, choice: Any, seed: int) -> None:
    request: Any = {"model": MODEL, "messages": [QUESTION], "tools": [WEATHER, NOW], "tool_choice": choice}
    sampling: Any = {"temperature": 1.2, "seed": seed, "max_tokens": 200}
    whole = openai_client.chat.completions.create(**request, **sampling).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = list(whole.message.tool_calls or ())
    check_call(call)
    if choice != "required":
        assert call.type == "function" and call.function.name == "get_weather"
    with openai_client.chat.completions.stream(**request, **sampling) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert [each.function.arguments for each in streamed.message.tool_calls or ()] == [call.function.arguments]


class City(BaseModel):
    name: str = Field(max_length=24)
    is_capital: bool


@pytest.mark.parametrize("tools", [(), (WEATHER,)], ids=["alone", "with tools"])
def test_an_answer_is_parsed_under_its_schema(openai_client: OpenAI, tools: tuple[Any, ...]) -> None:
    request: Any = {"model": MODEL, "messages": [QUESTION], "temperature": 1.2, "seed": 3, "max_tokens": 200}
    request |= {"tools": [*tools], "parallel_tool_calls": False} if tools else {}
    parsed = openai_client.chat.completions.parse(response_format=City, **request).choices[0]
    for call in parsed.message.tool_calls or ():
        check_call(call)
    if not parsed.message.tool_calls:
        assert parsed.finish_reason == "stop" and isinstance(parsed.message.parsed, City)


def test_an_agent_finds_its_earlier_turns_in_the_cache(openai_client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are an agent. Look up the weather of one city after the other, then stop."},
        {"role": "user", "content": "Compare the weather of the capitals of South America."},
    ]
    choice: Any = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    request: Any = {"model": MODEL, "temperature": 0, "max_tokens": 60, **choice}
    num_prompt = num_cached = 0
    for turn in range(NUM_TURNS):
        answer = openai_client.chat.completions.create(messages=messages, **request)
        message, usage = answer.choices[0].message, answer.usage
        assert usage is not None and usage.prompt_tokens_details is not None
        if turn:  # the first turn has nothing to find
            num_prompt += usage.prompt_tokens
            num_cached += usage.prompt_tokens_details.cached_tokens or 0
        (call,) = list(message.tool_calls or ())
        check_call(call)
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": f"{10 + turn} °C"}]
    assert num_cached > 0.9 * num_prompt, f"{num_cached} of {num_prompt} tokens were cached"
