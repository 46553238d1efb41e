"""Tests of Anthropic's dialect: the JSON on the wire, and the official client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam

from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer

MESSAGES: list[MessageParam] = [{"role": "user", "content": "Hi"}]
PROMPT = "XuserNHiXNXassistantN"  # a character for each token: X is a control token, N a line break


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


async def ask(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post("/v1/messages", json={"messages": MESSAGES, "max_tokens": 99, **fields})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, rest = response.text.split("\n\n")
    assert rest == ""
    return [json.loads(part.partition("\ndata: ")[2]) for part in parts]


def prompt_of(gateway: RunningGateway) -> str:
    token_ids = gateway.scheduler.requests[-1].prompt_token_ids
    return "".join(chr(token_id) if token_id < 256 else "X" for token_id in token_ids)


async def test_a_whole_message(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!", num_cached_tokens=16)
    body = await ask(gateway)
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(PROMPT) - 16,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 16,
            "output_tokens": 6,
        },
    }


async def test_the_events_of_a_stream(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey", num_cached_tokens=16)
    response = await gateway.http.post(
        "/v1/messages", json={"messages": MESSAGES, "max_tokens": 99, "stream": True, "model": "tiny"}
    )
    start, *rest = events(response)
    usage = {"input_tokens": len(PROMPT) - 16, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 16}
    assert start["message"].pop("id").startswith("msg_")
    assert start == {
        "type": "message_start",
        "message": {
            "type": "message",
            "role": "assistant",
            "model": "tiny",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**usage, "output_tokens": 0},
        },
    }
    assert rest == [
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
            for text in ("H", "e", "y")
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {**usage, "output_tokens": 3},
        },
        {"type": "message_stop"},
    ]
    assert response.text.startswith("event: message_start\ndata: {") and "[DONE]" not in response.text


async def test_an_empty_answer_has_no_blocks(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(258,))
    assert (await ask(gateway))["content"] == []


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [({"max_tokens": 3}, "max_tokens", None), ({"stop_sequences": ["lo", "zz"]}, "stop_sequence", "lo")],
)
async def test_the_reason_of_the_end(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic, fields: Any, reason: str, sequence: str | None
) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!")
    whole = await client.messages.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 99, **fields})
    assert (whole.content[0].text, whole.stop_reason, whole.stop_sequence) == ("Hel", reason, sequence)
    async with client.messages.stream(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 99, **fields}) as stream:
        streamed = await stream.get_final_message()
    assert streamed.model_dump(exclude={"id"}) == whole.model_dump(exclude={"id"})


async def test_parameters_reach_the_scheduler(gateway: RunningGateway) -> None:
    await ask(gateway, temperature=0.5, top_p=0.75, top_k=7, max_tokens=9, cache_salt="mine")
    sampling = gateway.scheduler.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.5, 0.75, 7, 9)
    assert gateway.scheduler.requests[-1].cache_salt


async def test_a_conversation_with_a_prefill_is_continued(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    await client.messages.create(
        model="tiny",
        max_tokens=5,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
            {"role": "user", "content": "C"},
            {"role": "assistant", "content": "The best answer is ("},
        ],
    )
    assert prompt_of(gateway) == "Xsystem\nBe brief.X\nXuser\nA\nB\nCX\nXassistant\nThe best answer is ("


async def test_the_billing_line_of_claude_code_does_not_change_the_prompt(gateway: RunningGateway) -> None:
    prompts = []
    for turn in ("cch=f1a2; cc_version=2.1.3", "cch=0b77; cc_version=2.1.3"):
        header = {"type": "text", "text": f"x-anthropic-billing-header: {turn}"}
        await ask(gateway, system=[header, {"type": "text", "text": "You are an agent."}])
        prompts.append(prompt_of(gateway))
        await ask(gateway, system=f"x-anthropic-billing-header: {turn}\nYou are an agent.")
        prompts.append(prompt_of(gateway))
    assert set(prompts) == {"Xsystem\nYou are an agent.X\nXuser\nHiX\nXassistant\n"}


async def test_counted_tokens_are_those_of_the_prompt(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    counted = await client.messages.count_tokens(model="tiny", messages=MESSAGES, system="Be brief.")
    message = await client.messages.create(model="tiny", messages=MESSAGES, system="Be brief.", max_tokens=5)
    assert counted.input_tokens == message.usage.input_tokens == len(gateway.scheduler.requests[-1].prompt_token_ids)


async def test_thinking_is_ignored_by_a_model_that_cannot(gateway: RunningGateway) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5, "thinking": {"type": "enabled", "budget_tokens": 1024}, "new": 1}
    response = await gateway.http.post("/v1/messages", json=body)
    assert response.status_code == 200
    assert response.headers["x-pagoda-ignored"] == "new, thinking"


async def test_errors_are_those_of_the_client(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0\.type.*'image'"):
        source: Any = {"type": "url", "url": "http://127.0.0.1/a.png"}
        content: Any = [{"type": "image", "source": source}]
        await client.messages.create(model="tiny", max_tokens=5, messages=[{"role": "user", "content": content}])
    with pytest.raises(anthropic.NotFoundError, match=r"claude-sonnet-4-5.*Served here: `tiny`") as missing:
        await client.messages.create(model="claude-sonnet-4-5", max_tokens=5, messages=MESSAGES)
    assert missing.value.response.headers["request-id"] == missing.value.response.headers["x-request-id"]
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"tools\.0\.type.*web_search_20250305"):
        search: Any = {"type": "web_search_20250305", "name": "web_search"}
        await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, tools=[search])


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": []}], "Xuser\nX\nXassistant\n"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": []}], "Xuser\nHiX\nXassistant\n"),
        ([{"role": "assistant", "content": [{"type": "redacted_thinking"}]}], "Xassistant\n"),
    ],
)
async def test_messages_without_text(gateway: RunningGateway, messages: Any, prompt: str) -> None:
    await ask(gateway, messages=messages)
    assert prompt_of(gateway) == prompt


async def test_there_must_be_a_message(gateway: RunningGateway) -> None:
    only = [{"role": "system", "content": "x-anthropic-billing-header: cch=1;"}]
    for path in ("", "/count_tokens"):
        response = await gateway.http.post(f"/v1/messages{path}", json={"messages": only, "max_tokens": 5})
        assert response.status_code == 400 and "messages: " in response.json()["error"]["message"]


async def test_batches_are_refused_by_name(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="batches are not supported"):
        await client.messages.batches.create(requests=[])
    with pytest.raises(anthropic.NotFoundError, match="batches are not supported"):
        await client.messages.batches.retrieve("msgbatch_1")


async def test_an_error_in_a_stream_is_an_event(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!", failure_after=2)
    with pytest.raises(anthropic.APIStatusError, match="the script says so"):
        async with client.messages.stream(model="tiny", messages=MESSAGES, max_tokens=9) as stream:
            async for _ in stream:
                pass
