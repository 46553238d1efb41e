"""Tests of the Responses API with OpenAI's own client: its parser, its stream helper, and an agent's loop over tools."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import pydantic_function_tool
from pydantic import BaseModel

from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import write_tiny_gguf
from tests.fakes.valkey import real_valkey
from tests.integration.test_gateway_responses import prompt


class Place(BaseModel):
    city: str


TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": Place.model_json_schema(),
    "strict": False,
}


def call_of(city: str) -> str:
    return f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    template = (Path(__file__).parents[1] / "templates" / "agent.jinja").read_text()
    write_tiny_gguf(short_path / "tiny.gguf", max_position=16384, chat_template=template)
    async with running_gateway(short_path, max_model_len=16384) as running:
        yield running


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(gateway) as client:
        yield client


def client_of(gateway: RunningGateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


async def test_parse_returns_the_model_of_the_schema(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text='{"city": "Lima"}')
    response = await client.responses.parse(model="tiny", input="Where?", text_format=Place)
    assert response.output_parsed == Place(city="Lima")
    assert "city" in gateway.scheduler.requests[-1].sampling.constraint.grammar


async def test_the_stream_helper_accepts_all_events(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text='<think>\nHm.\n</think>\n\n{"city": "Lima"}')
    async with client.responses.stream(model="tiny", input="Where?", text_format=Place) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()
    assert response.output_parsed == Place(city="Lima")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert deltas[-1].snapshot == response.output_text == "".join(event.delta for event in deltas)
    assert response.usage is not None and response.usage.output_tokens_details.reasoning_tokens > 0


async def test_the_stream_helper_parses_calls(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=f"Let me look.\n{call_of('Lima')}\n{call_of('Quito')}")
    tools: Any = [pydantic_function_tool(Place, name="weather")]
    async with client.responses.stream(model="tiny", input="Weather?", tools=tools) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()
    calls = [item for item in response.output if item.type == "function_call"]
    assert [call.parsed_arguments for call in calls] == [Place(city="Lima"), Place(city="Quito")]
    snapshots = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
    assert snapshots[-1] == calls[-1].arguments


async def test_a_failed_stream_raises_nothing_but_ends(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", failure_after=2)
    async with client.responses.stream(model="tiny", input="Hi") as stream:
        events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed" and last.response.error is not None
    assert last.response.error.code == "server_error"


@pytest.mark.parametrize("by_id", [False, True], ids=["stateless", "stored"])
async def test_an_agent_of_20_turns_reuses_its_prefix(
    gateway: RunningGateway, client: openai.AsyncOpenAI, by_id: bool
) -> None:
    """Each prompt begins with the one before it and with the answer to that, so that both are cached."""
    turn = 0

    def answer(request: inference_pb2.GenerateRequest, index: int) -> Answer:
        return Answer(text=f"<think>\nStep {turn}.\n</think>\n\n{call_of(f'City {turn}')}" if turn < 20 else "Done.")

    gateway.scheduler.answer = answer
    items: list[Any] = [{"role": "user", "content": "Tour the country."}]
    response = await client.responses.create(model="tiny", input=items, tools=[TOOL], store=by_id)
    for turn in range(1, 21):
        before = prompt(gateway)
        [call] = [item for item in response.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"city": f"City {turn - 1}"}
        result = {"type": "function_call_output", "call_id": call.call_id, "output": f"{turn} degrees"}
        items += [*response.output, result]
        continued: Any = {"previous_response_id": response.id, "input": [result]} if by_id else {"input": items}
        response = await client.responses.create(model="tiny", tools=[TOOL], store=by_id, **continued)
        assert prompt(gateway).startswith(
            f"{before}<think>\nStep {turn - 1}.\n</think>\n\n{call_of(f'City {turn - 1}')}"
        )
    assert response.output_text == "Done."


async def test_a_stored_response_is_managed(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": f"{number}"} for number in range(5)]
    response = await client.responses.create(model="tiny", input=items, metadata={"k": "v"})
    assert (await client.responses.retrieve(response.id)).to_dict() == response.to_dict()
    listed = [item async for item in await client.responses.input_items.list(response.id, limit=2, order="asc")]
    texts = [item.to_dict()["content"][0]["text"] for item in listed]  # type: ignore[index]
    assert texts == ["0", "1", "2", "3", "4"]
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_a_response_in_the_background_is_followed_and_cancelled(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    seen = []
    async with await client.responses.create(model="tiny", input="Hi", background=True, stream=True) as created:
        async for event in created:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    assert seen[0].type == "response.created"
    response_id = seen[0].response.id
    followed = await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    event = await anext(aiter(followed))
    assert event.type == "response.output_text.delta" and event.delta == "e"
    cancelled = await client.responses.cancel(response_id)
    assert cancelled.status == "cancelled" and cancelled.output_text == "He"
    assert [event async for event in followed] == []


async def test_gateways_share_a_store_in_redis(short_path: Path) -> None:
    """A conversation continues at another gateway. A response in the background is known there, too."""
    with real_valkey(short_path) as valkey:
        first, second = short_path / "1", short_path / "2"
        first.mkdir()
        second.mkdir()
        async with (
            running_gateway(first, response_store=valkey.url) as one,
            running_gateway(second, response_store=valkey.url) as other,
            client_of(one) as here,
            client_of(other) as there,
        ):
            response = await here.responses.create(model="tiny", input="Hi")
            assert (await there.responses.retrieve(response.id)).to_dict() == response.to_dict()
            await there.responses.create(model="tiny", input="And?", previous_response_id=response.id)
            assert prompt(other) == "[user\nHi]\n[assistant\nHello!]\n[user\nAnd?]\n[assistant\n"
            one.scheduler.answer = lambda *_: Answer(hold_before=2)
            running = await here.responses.create(model="tiny", input="Hi", background=True)
            await one.scheduler.held.get()
            assert (await there.responses.retrieve(running.id)).status == "queued"
            with pytest.raises(openai.BadRequestError, match="Another gateway"):
                await there.responses.cancel(running.id)
        # The gateway that generated it has ended.
        async with running_gateway(first, response_store=valkey.url) as one, client_of(one) as here:
            failed = await here.responses.retrieve(running.id)
            assert failed.status == "failed" and failed.error is not None and "shut down" in failed.error.message


async def test_a_store_that_does_not_answer_is_reported(short_path: Path) -> None:
    """Requests that do not need the store are answered without it."""
    url = f"unix://{short_path / 'nothing.sock'}"
    async with running_gateway(short_path, response_store=url) as gateway, client_of(gateway) as client:
        response = await client.responses.create(model="tiny", input="Hi")
        assert response.output_text == "Hello!"
        for fields in ({"previous_response_id": response.id}, {"background": True}):
            answer = await gateway.http.post("/v1/responses", json={"input": "Hi", **fields})
            assert answer.status_code == 503 and "store" in answer.json()["error"]["message"]
