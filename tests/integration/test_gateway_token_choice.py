"""Tests of the fields that name tokens in OpenAI's dialect: allowed_token_ids, bad_words and logprob_token_ids."""

from typing import Any

import pytest

from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer
from tests.integration.test_gateway_openai import chat, complete, sse

A, B, Z = map(ord, "abz")


async def test_they_reach_the_scheduler(gateway: RunningGateway) -> None:
    fields: dict[str, Any] = {
        "allowed_token_ids": [Z, A, Z],
        "logprob_token_ids": [Z, A, Z],
        "bad_words": ["zap", "o o"],
    }
    await chat(gateway, logprobs=True, **fields)
    await complete(gateway, prompt="x", logprobs=0, **fields)
    for request in gateway.scheduler.requests:
        sampling = request.sampling
        assert list(sampling.allowed_token_ids) == [A, Z]
        assert (list(sampling.logprob_token_ids), sampling.num_logprobs) == ([Z, A], 0)
        words = [bytes(word.token_ids) for word in sampling.bad_words]
        assert words == [b"zap", b" zap", b"o o", b" o o"]


async def test_without_them_nothing_is_sent(gateway: RunningGateway) -> None:
    await chat(gateway, bad_words=[], logprob_token_ids=[], logprobs=True)
    (request,) = gateway.scheduler.requests
    sampling = request.sampling
    assert not (sampling.allowed_token_ids or sampling.bad_words or sampling.logprob_token_ids)


@pytest.mark.parametrize("top_logprobs", [None, 0, 5])
async def test_chats_show_the_named_tokens_in_order(gateway: RunningGateway, top_logprobs: int | None) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="ab")
    fields = {"logprobs": True, "logprob_token_ids": [Z, B], "top_logprobs": top_logprobs}
    body = await chat(gateway, **fields)
    content = body["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["logprob"]) for each in content] == [("a", -0.5), ("b", -0.5)]
    named = [[(top["token"], top["logprob"]) for top in each["top_logprobs"]] for each in content]
    assert named == [[("z", -25.5), ("b", -1.5)], [("z", -24.5), ("b", -0.5)]]
    response = await gateway.http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
    )
    streamed = [chunk["choices"][0]["logprobs"] for chunk in sse(response)[:-1]]
    assert [each for logprobs in streamed if logprobs for each in logprobs["content"]] == content


async def test_completions_show_them_beside_the_chosen_one(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="ab")
    body = await complete(gateway, prompt="xy", logprobs=1, logprob_token_ids=[Z, B], echo=True)
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [
        None,
        # The prompt's tokens have the most probable ones.
        {"y": -0.5},
        {"a": -0.5, "z": -25.5, "b": -1.5},
        {"b": -0.5, "z": -24.5},
    ]
    body = await complete(
        gateway, prompt="xy", logprobs=0, logprob_token_ids=[Z], return_tokens_as_token_ids=True, max_tokens=1
    )
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [{f"token_id:{A}": -0.5, f"token_id:{Z}": -25.5}]
