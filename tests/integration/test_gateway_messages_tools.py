"""Tests of tools and output formats in Anthropic's dialect, with the official client and a scripted model."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.scripted_agent import ANSWER, CALL, RESULT, WINDOW, answer_as_agent
from tests.fakes.tiny_model import write_tiny_gguf

QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the weather in Lima?"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Return the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    write_tiny_gguf(short_path / "tiny.gguf", max_position=WINDOW)
    async with running_gateway(short_path, max_model_len=WINDOW) as running:
        running.scheduler.answer = answer_as_agent
        yield running


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def prompt_of(gateway: RunningGateway, index: int = -1) -> str:
    return bytes(each for each in gateway.scheduler.requests[index].prompt_token_ids if each < 256).decode()


async def ask(client: anthropic.AsyncAnthropic, **fields: Any) -> anthropic.types.Message:
    """Return the whole answer, which is the same as the streamed one."""
    asked = {"model": "tiny", "messages": QUESTION, "max_tokens": 200, "tools": [WEATHER], **fields}
    whole: anthropic.types.Message = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    assert _without_ids(streamed) == _without_ids(whole)
    return whole


def _without_ids(message: anthropic.types.Message) -> dict[str, Any]:
    body = message.model_dump(exclude={"id"}, exclude_none=True)
    return {**body, "content": [{**block, "id": None} for block in body["content"]]}


async def test_a_call(client: anthropic.AsyncAnthropic) -> None:
    message = await ask(client)
    (call,) = message.content
    assert call.type == "tool_use" and call.id.startswith("toolu_")
    assert (call.name, call.input, message.stop_reason) == ("get_weather", {"city": "Lima"}, "tool_use")


async def test_text_before_a_call(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=f"I will look.\n{CALL}")
    text, call = (await ask(client)).content
    assert text.type == "text" and text.text == "I will look."
    assert call.type == "tool_use" and call.input == {"city": "Lima"}


async def test_several_calls(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=f"{CALL}\n{CALL.replace('Lima', 'Oslo')}")
    calls = (await ask(client)).content
    assert [call.type == "tool_use" and call.input for call in calls] == [{"city": "Lima"}, {"city": "Oslo"}]


async def test_what_is_no_call_is_text(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    broken = CALL.replace("{", "")
    gateway.scheduler.answer = lambda *_: Answer(text=broken)
    message = await ask(client)
    assert [block.type for block in message.content] == ["text"] and message.stop_reason == "end_turn"
    assert message.content[0].type == "text" and message.content[0].text == broken


async def test_a_call_that_max_tokens_cut(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=CALL)
    message = await ask(client, max_tokens=len(CALL) - 20)
    assert message.stop_reason == "max_tokens"


async def test_no_tool_may_be_called(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    message = await ask(client, tool_choice={"type": "none"})
    assert [block.type for block in message.content] == ["text"]
    assert "get_weather" not in prompt_of(gateway)


async def test_the_result_of_a_tool_is_in_the_next_prompt(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    asked = await ask(client)
    call = asked.content[0]
    assert call.type == "tool_use"
    result: MessageParam = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT}],
    }
    message = await ask(client, messages=[*QUESTION, {"role": "assistant", "content": asked.content}, result])
    assert message.content[0].type == "text" and message.content[0].text == ANSWER
    # The turn before is a prefix of this one, up to the end of what the model wrote.
    first, later = prompt_of(gateway, 0), prompt_of(gateway)
    assert later.startswith(first + CALL) and RESULT in later


async def test_the_tool_runner_goes_on_without_a_thread(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    asked_for = []

    @beta_async_tool
    async def get_weather(city: str) -> str:
        """Return the weather of a city."""
        asked_for.append(city)
        return f"20 degrees in {city}"

    runner = client.beta.messages.tool_runner(
        model="tiny", max_tokens=200, tools=[get_weather], messages=[{"role": "user", "content": "Weather in Lima?"}]
    )
    message = await runner.until_done()
    assert asked_for == ["Lima"]
    assert message.content[0].type == "text" and message.content[0].text == ANSWER


async def test_the_output_format_reaches_the_worker(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    class Weather(BaseModel):
        degrees: int

    gateway.scheduler.answer = lambda *_: Answer(text='{"degrees": 20}')
    message = await client.messages.parse(model="tiny", messages=QUESTION, max_tokens=99, output_format=Weather)
    assert message.parsed_output == Weather(degrees=20)
    assert "degrees" in gateway.scheduler.requests[-1].sampling.constraint.grammar
    older: Any = {"output_format": {"type": "json_schema", "schema": {"type": "object", "properties": {"old": {}}}}}
    await client.messages.create(model="tiny", messages=QUESTION, max_tokens=99, extra_body=older)
    assert "old" in gateway.scheduler.requests[-1].sampling.constraint.grammar


async def test_a_schema_that_cannot_be_held_is_refused_by_name(client: anthropic.AsyncAnthropic) -> None:
    schema: Any = {"type": "array", "uniqueItems": True}
    with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format\.schema.*uniqueItems"):
        config: Any = {"format": {"type": "json_schema", "schema": schema}}
        await client.messages.create(model="tiny", messages=QUESTION, max_tokens=99, output_config=config)


async def test_calls_without_results_are_answered_anew(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Lima"}}
    await ask(client, messages=[*QUESTION, {"role": "assistant", "content": [call]}])
    assert prompt_of(gateway).endswith("\nassistant\n")


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([{"name": "a b", "input_schema": {}}], r"tools\.0\.name: "),
        ([{"name": "a", "input_schema": {"properties": {"b": {"type": "c"}}}}], r"tools\.0\.input_schema: "),
        ([{"name": "a", "input_schema": {"type": "string"}}], r"tools\.0\.input_schema\.type: must be 'object'"),
        ([WEATHER, WEATHER], r"tools\.1\.name: .*'get_weather' again"),
    ],
)
async def test_a_wrong_tool_is_named(client: anthropic.AsyncAnthropic, tools: Any, problem: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=problem):
        await ask(client, tools=tools, tool_choice={"type": "any"})


async def test_tools_are_counted(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    counted = await client.messages.count_tokens(model="tiny", messages=QUESTION, tools=[WEATHER])
    message = await client.messages.create(model="tiny", messages=QUESTION, tools=[WEATHER], max_tokens=5)
    assert counted.input_tokens == message.usage.input_tokens
