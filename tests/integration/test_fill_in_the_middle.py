"""Tests of `suffix` in both dialects: the prompt has the markers of the model's family, and its end tokens end the answer."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import CONTROL_TOKENS, write_tiny_gguf

PREFIX, MIDDLE, SUFFIX, FILE_END = range(256 + len(CONTROL_TOKENS), 260 + len(CONTROL_TOKENS))
NAMES = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_sep|>")
EXPECTED = [PREFIX, *b"def f(", SUFFIX, *b"): pass", MIDDLE]


@pytest.fixture
async def coder(short_path: Path) -> AsyncIterator[RunningGateway]:
    write_tiny_gguf(short_path / "tiny.gguf", more_control_tokens=NAMES)
    async with running_gateway(short_path) as running:
        running.scheduler.answer = lambda *_: Answer(token_ids=(*b"x", FILE_END), stop_token_id=FILE_END)
        yield running


async def test_generate(coder: RunningGateway) -> None:
    body = {"model": "tiny", "prompt": "def f(", "suffix": "): pass", "stream": False}
    reply = (await coder.http.post("/api/generate", json=body)).json()
    (request,) = coder.scheduler.requests
    assert list(request.prompt_token_ids) == EXPECTED
    assert {PREFIX, MIDDLE, SUFFIX, FILE_END} <= set(request.sampling.stop_token_ids)
    assert (reply["response"], reply["done_reason"], "context" in reply) == ("x", "stop", False)
    shown = (await coder.http.post("/api/show", json={"model": "tiny"})).json()
    assert shown["capabilities"] == ["completion", "insert"]


async def test_completions(coder: RunningGateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{coder.url}/v1", api_key="none") as client:
        for prompt in ("def f(", list(b"def f(")):
            done = await client.completions.create(model="tiny", prompt=prompt, suffix="): pass")
            assert (done.choices[0].text, done.choices[0].finish_reason) == ("x", "stop")
    assert [list(request.prompt_token_ids) for request in coder.scheduler.requests] == [EXPECTED, EXPECTED]
    assert FILE_END in coder.scheduler.requests[0].sampling.stop_token_ids


async def test_markers_in_the_text_are_text(coder: RunningGateway) -> None:
    body = {"model": "tiny", "prompt": "a<|fim_middle|>", "suffix": "<|fim_suffix|>b"}
    assert (await coder.http.post("/api/generate", json=body)).status_code == 200
    expected = [PREFIX, *b"a<|fim_middle|>", SUFFIX, *b"<|fim_suffix|>b", MIDDLE]
    assert list(coder.scheduler.requests[0].prompt_token_ids) == expected


async def test_a_gap_at_the_beginning(coder: RunningGateway) -> None:
    assert (await coder.http.post("/api/generate", json={"model": "tiny", "suffix": "b"})).status_code == 200
    assert list(coder.scheduler.requests[0].prompt_token_ids) == [PREFIX, SUFFIX, *b"b", MIDDLE]


async def test_other_models_say_that_they_cannot(gateway: RunningGateway) -> None:
    for path in ("/api/generate", "/v1/completions"):
        response = await gateway.http.post(path, json={"model": "tiny", "prompt": "a", "suffix": "b"})
        assert response.status_code == 400
        assert "`tiny` does not support insert" in response.text
    refused = await gateway.http.post("/v1/completions", json={"prompt": "a", "suffix": "b", "echo": True})
    assert refused.status_code == 400 and "echo: not possible together with suffix" in refused.text
