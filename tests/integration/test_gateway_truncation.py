"""Tests of prompts longer than the window in Ollama's API: the part that is kept, and the notice to the client."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
import pytest_asyncio

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [
    message
    for number in range(20)
    for message in ({"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "x" * 20})
]
LAST = {"role": "user", "content": "The last question?"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def shared_gateway() -> AsyncIterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with running_gateway(Path(directory)) as running:
            yield running


def prompt_of(gateway: RunningGateway) -> str:
    """Return the last request's prompt as text, with control tokens as `|`."""
    return "".join(chr(each) if each < 256 else "|" for each in gateway.scheduler.requests[-1].prompt_token_ids)


async def chat(gateway: RunningGateway, messages: list[Any], **fields: Any) -> Any:
    body = {"model": "tiny", "messages": messages, "stream": False, **fields}
    return await gateway.http.post("/api/chat", json=body)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_oldest_turns_go(gateway: RunningGateway, stream: bool) -> None:
    response = await chat(gateway, [SYSTEM, *TURNS, LAST], stream=stream)
    assert response.status_code == 200, response.text
    prompt = prompt_of(gateway)
    assert prompt.startswith("|system\nBe kind.|\n|user\nQuestion ")
    assert prompt.endswith("|user\nThe last question?|\n|assistant\n")
    number, _, unit = response.headers["x-pagoda-truncated"].partition(" ")
    assert unit == "messages"
    assert f"Question {int(number) // 2}?" in prompt and f"Question {int(number) // 2 - 1}?" not in prompt
    assert len(prompt) <= 512 * 3 // 4


async def test_the_same_chat_loses_the_same(gateway: RunningGateway) -> None:
    await chat(gateway, [SYSTEM, *TURNS, LAST])
    first = prompt_of(gateway)
    await chat(gateway, [SYSTEM, *TURNS, LAST])
    assert prompt_of(gateway) == first


@pytest.mark.parametrize(("options", "most"), [({"num_ctx": 200}, 150), ({"num_ctx": 200, "num_predict": 20}, 180)])
async def test_num_ctx_is_the_window(gateway: RunningGateway, options: dict[str, int], most: int) -> None:
    response = await chat(gateway, [*TURNS[:12], LAST], options=options)
    assert "x-pagoda-truncated" in response.headers
    assert most - 60 < len(prompt_of(gateway)) <= most
    assert gateway.scheduler.requests[-1].sampling.max_tokens >= 20


async def test_a_chat_that_fits_is_whole(gateway: RunningGateway) -> None:
    response = await chat(gateway, [SYSTEM, *TURNS[:2], LAST])
    assert response.status_code == 200
    assert "x-pagoda-truncated" not in response.headers
    assert "Question 0?" in prompt_of(gateway)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_refused_where_nothing_may_be_lost(gateway: RunningGateway, path: str) -> None:
    fields = {"truncate": False} if path == "/api/chat" else {}
    response = await gateway.http.post(path, json={"model": "tiny", "messages": [SYSTEM, *TURNS, LAST], **fields})
    assert response.status_code == 400
    assert "maximum context length is 512 tokens" in response.text


async def test_a_raw_prompt_loses_its_beginning(gateway: RunningGateway) -> None:
    body = {"model": "tiny", "prompt": "a" * 300 + "b" * 300, "raw": True, "stream": False}
    response = await gateway.http.post("/api/generate", json=body)
    assert response.status_code == 200
    assert response.headers["x-pagoda-truncated"] == "216 tokens"
    assert prompt_of(gateway) == "a" * 84 + "b" * 300


async def test_the_context_of_a_cut_prompt_is_what_was_seen(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey")
    body = {"model": "tiny", "prompt": "b" * 600, "stream": False}
    response = await gateway.http.post("/api/generate", json=body)
    seen = list(gateway.scheduler.requests[-1].prompt_token_ids)
    assert response.json()["context"] == seen + list(b"Hey")
    assert response.headers["x-pagoda-truncated"].endswith(" tokens")


async def test_a_prompt_of_a_megabyte(gateway: RunningGateway) -> None:
    body = {"model": "tiny", "prompt": "a" * 10**6 + "the end", "raw": True, "stream": False}
    response = await gateway.http.post("/api/generate", json=body)
    assert response.status_code == 200
    assert prompt_of(gateway).endswith("athe end")
    messages = [{"role": "user", "content": "a" * 10**6}, {"role": "assistant", "content": "b"}, LAST]
    response = await chat(gateway, messages)
    assert (response.status_code, response.headers["x-pagoda-truncated"]) == (200, "2 messages")


@pytest.mark.parametrize("begun", ["The answer is", "", None])
async def test_a_final_assistant_message_is_continued(gateway: RunningGateway, begun: str | None) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text=" 42")
    async with ollama.AsyncClient(gateway.url) as client:
        answer = await client.chat("tiny", [LAST, {"role": "assistant", "content": begun}])
    assert prompt_of(gateway) == f"|user\nThe last question?|\n|assistant\n{begun or ''}"
    assert answer.message.content == " 42"
    openai_body = {"messages": [LAST, {"role": "assistant", "content": begun}], "continue_final_message": True}
    await gateway.http.post("/v1/chat/completions", json=openai_body)
    assert prompt_of(gateway) == f"|user\nThe last question?|\n|assistant\n{begun or ''}"
