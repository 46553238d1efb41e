"""Tests of the Messages API on the default model, with Anthropic's client. The model is too small to call tools by itself."""

from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import jsonschema_rs
import pytest
from anthropic import beta_tool
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam
from pydantic import BaseModel

from pagoda.models.catalogue import DEFAULT_MODEL
from tests.e2e.system import System

QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the weather in Lima tomorrow?"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Return the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
            "unit": {"enum": ["celsius", "kelvin"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
TIME: ToolParam = {
    "name": "get_time",
    "input_schema": {"type": "object", "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}}},
}
SCHEMAS: dict[str, Any] = {tool["name"]: tool["input_schema"] for tool in (WEATHER, TIME)}


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Lima", "Oslo"]
    is_sunny: bool  # The client removes bounds of numbers from a schema.


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=system.url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, *, temperature: float = 0.0, **fields: Any) -> anthropic.types.Message:
    sampling = {"temperature": temperature}  # The client's functions have no such parameter.
    asked = {"model": DEFAULT_MODEL, "max_tokens": 200, "messages": QUESTION, "extra_body": sampling, **fields}
    message: anthropic.types.Message = client.messages.create(**asked)
    return message


def calls_of(message: anthropic.types.Message) -> list[anthropic.types.ToolUseBlock]:
    calls = [block for block in message.content if block.type == "tool_use"]
    for call in calls:
        jsonschema_rs.validate(SCHEMAS[call.name], call.input)
    return calls


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "any", "disable_parallel_tool_use": True}, {"get_weather", "get_time"}),
        ({"type": "tool", "name": "get_time"}, {"get_time"}),
        ({"type": "tool", "name": "get_weather"}, {"get_weather"}),
    ],
    ids=["any", "get_time", "get_weather"],
)
def test_a_forced_call_is_valid(client: anthropic.Anthropic, choice: Any, names: set[str], temperature: float) -> None:
    message = ask(client, tools=[WEATHER, TIME], tool_choice=choice, temperature=temperature)
    (call,) = calls_of(message)
    assert call.name in names and message.stop_reason == "tool_use"


def test_a_streamed_call_is_the_whole_one(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": DEFAULT_MODEL,
        "max_tokens": 200,
        "messages": QUESTION,
        "tools": [WEATHER],
        "tool_choice": {"type": "any"},
        "extra_body": {"temperature": 0.0},
    }
    whole = ask(client, **asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert [(call.name, call.input) for call in calls_of(streamed)] == [(c.name, c.input) for c in calls_of(whole)]


def test_parse_returns_an_object(client: anthropic.Anthropic) -> None:
    message = client.messages.parse(model=DEFAULT_MODEL, max_tokens=100, messages=QUESTION, output_format=Weather)
    assert isinstance(message.parsed_output, Weather)


def test_the_tool_runner(client: anthropic.Anthropic) -> None:
    asked_for = []

    @beta_tool
    def get_weather(city: Literal["Lima", "Oslo"]) -> str:
        """Return the weather of a city."""
        asked_for.append(city)
        return f"20 degrees in {city}"

    runner = client.beta.messages.tool_runner(
        model=DEFAULT_MODEL,
        max_tokens=60,
        max_iterations=2,
        tools=[get_weather],
        tool_choice={"type": "tool", "name": "get_weather"},
        messages=[{"role": "user", "content": "What is the weather in Lima?"}],
    )
    assert [message.stop_reason for message in runner] == ["tool_use", "tool_use"]
    assert asked_for and {*asked_for} <= {"Lima", "Oslo"}


def test_an_agent_reads_its_earlier_turns_from_the_cache(client: anthropic.Anthropic) -> None:
    """The system prompt begins with Claude Code's line, which differs in each request."""
    story = "You look after a pagoda with nine floors, and after a library on each of them. " * 12
    messages: list[MessageParam] = [*QUESTION]
    num_cached = num_tokens = 0
    for turn in range(20):
        header = f"x-anthropic-billing-header: cc_version=2.1.3; cch={turn:05x};"
        message = ask(
            client,
            system=[{"type": "text", "text": header}, {"type": "text", "text": story}],
            messages=messages,
            tools=[WEATHER],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
        (call,) = calls_of(message)
        if turn:
            num_cached += message.usage.cache_read_input_tokens or 0
            num_tokens += message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
        result = ToolResultBlockParam(type="tool_result", tool_use_id=call.id, content=f"{turn} degrees")
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert num_cached > 0.9 * num_tokens, f"{num_cached} of {num_tokens}"
