"""Tests of thinking in Anthropic's dialect, with the official client, a template that offers it, and a scripted model."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.scripted_agent import CALL, RESULT, WINDOW
from tests.fakes.tiny_model import write_tiny_gguf

TEMPLATE = Path(__file__).parents[1] / "templates" / "thinking.jinja"
QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the weather in Lima?"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
THOUGHT = "<think>\nIn Peru.\n</think>\n\n"
ON = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    write_tiny_gguf(short_path / "tiny.gguf", max_position=WINDOW, chat_template=TEMPLATE.read_text())
    async with running_gateway(short_path, max_model_len=WINDOW) as running:
        running.scheduler.answer = lambda *_: Answer(text=f"{THOUGHT}Warm.")
        yield running


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def prompt_of(gateway: RunningGateway, index: int = -1) -> str:
    return bytes(each for each in gateway.scheduler.requests[index].prompt_token_ids if each < 256).decode()


async def ask(client: anthropic.AsyncAnthropic, **fields: Any) -> list[dict[str, Any]]:
    """Return the blocks of the whole answer, which are those of the stream."""
    asked = {"model": "tiny", "messages": QUESTION, "max_tokens": 2000, **fields}
    whole: anthropic.types.Message = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    blocks, others = ([block.to_dict() for block in message.content] for message in (whole, streamed))
    assert [{**block, "id": None} for block in blocks] == [{**block, "id": None} for block in others]
    assert whole.usage.output_tokens_details == streamed.usage.output_tokens_details
    return blocks


@pytest.mark.parametrize("thinking", [ON, {"type": "adaptive"}, None])
async def test_thinking_is_a_block(client: anthropic.AsyncAnthropic, thinking: Any) -> None:
    blocks = await ask(client, **({"thinking": thinking} if thinking else {}))
    assert blocks == [
        {"type": "thinking", "thinking": "In Peru.", "signature": ""},
        {"type": "text", "text": "Warm."},
    ]


async def test_thinking_tokens_are_counted(client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(model="tiny", messages=QUESTION, max_tokens=2000)
    details = message.usage.output_tokens_details
    assert details is not None and 0 < details.thinking_tokens <= message.usage.output_tokens


async def test_thinking_is_disabled(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Warm.")
    assert await ask(client, thinking={"type": "disabled"}) == [{"type": "text", "text": "Warm."}]
    assert prompt_of(gateway).endswith("<think>\n\n</think>\n\n")
    variables = {"enable_thinking": False}
    assert await ask(client, extra_body={"chat_template_kwargs": variables}) == [{"type": "text", "text": "Warm."}]
    assert prompt_of(gateway).endswith("<think>\n\n</think>\n\n")


async def test_thinking_is_omitted(client: anthropic.AsyncAnthropic) -> None:
    blocks = await ask(client, thinking={**ON, "display": "omitted"})
    assert blocks[0] == {"type": "thinking", "thinking": "", "signature": ""}


async def test_a_call_after_thinking(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    """The thought comes back with the tool's result, so what the model wrote is a prefix of the next prompt."""
    gateway.scheduler.answer = lambda *_: Answer(text=f"{THOUGHT}I look.\n{CALL}")
    blocks = await ask(client, tools=[WEATHER], thinking=ON)
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    result = {"type": "tool_result", "tool_use_id": blocks[2]["id"], "content": RESULT}
    messages = [*QUESTION, {"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
    await ask(client, tools=[WEATHER], thinking=ON, messages=messages)
    assert prompt_of(gateway).startswith(f"{prompt_of(gateway, 0)}{THOUGHT}I look.\n{CALL}")
    assert RESULT in prompt_of(gateway)


async def test_the_budget_reaches_the_worker(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    await ask(client, thinking={**ON, "budget_tokens": 77})
    assert gateway.scheduler.requests[-1].sampling.constraint.reasoning.budget == 77
