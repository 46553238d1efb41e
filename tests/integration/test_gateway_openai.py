"""Tests of OpenAI's dialect: the JSON on the wire, and the official client."""

import json
from typing import Any

import httpx
import openai
import pytest

from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import IM_END, IM_START
from tests.fakes.waiting import until

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def client(gateway: RunningGateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


async def chat(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


async def complete(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post("/v1/completions", json=fields)
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


def sse(response: httpx.Response) -> list[Any]:
    """Return the objects of the events, or the text of an event that is not JSON."""
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events.pop() == ""
    return [
        json.loads(event.removeprefix("data: ")) if event.startswith("data: {") else event.removeprefix("data: ")
        for event in events
    ]


async def test_whole_chat_completion(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!", num_cached_tokens=16)
    body = await chat(gateway)
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    num_prompt_tokens = len("XuserNHiXNXassistantN")
    assert body == {
        "object": "chat.completion",
        "model": "tiny",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": 6,
            "total_tokens": num_prompt_tokens + 6,
            "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_streamed_chat_begins_with_the_role_and_ends_with_reason_usage_and_done(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey")
    response = await gateway.http.post(
        "/v1/chat/completions",
        json={"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
    )
    *chunks, usage, done = sse(response)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "e"},
        {"content": "y"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (*chunks, usage)}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 3


async def test_continuous_usage_counts_up(gateway: RunningGateway) -> None:
    response = await gateway.http.post(
        "/v1/completions",
        json={"prompt": "ab", "stream": True, "stream_options": {"continuous_usage_stats": True}},
    )
    *chunks, _ = sse(response)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 5, 6, 6]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {2}


async def test_parameters_reach_the_scheduler(gateway: RunningGateway) -> None:
    await chat(
        gateway,
        temperature=0.5,
        top_p=0.75,
        top_k=7,
        min_p=0.25,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.25,
        logit_bias={"65": 50, "66": -100},
        seed=-1,
        max_completion_tokens=9,
        max_tokens=4,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=[10],
        logprobs=True,
        top_logprobs=3,
        n=2,
        cache_salt="tenant-a",
        user="someone",
        tools=[],
        response_format={"type": "text"},
    )
    (request,) = gateway.scheduler.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.75, 7, 0.25)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.25)
    assert dict(sampling.logit_bias) == {65: 50.0, 66: -100.0}
    assert sampling.seed == 2**64 - 1
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (9, 2, True)
    assert (list(sampling.stop_token_ids), sampling.num_logprobs) == ([10], 3)
    assert (request.num_samples, request.cache_salt, request.model) == (2, "shared/tenant-a", "tiny")


async def test_defaults_and_a_seed_of_its_own_for_each_request(gateway: RunningGateway) -> None:
    await chat(gateway)
    await complete(gateway, prompt="a")
    first, second = gateway.scheduler.requests
    assert (first.sampling.temperature, first.sampling.top_p, first.sampling.top_k) == (1.0, 1.0, 0)
    assert first.sampling.max_tokens == 512 - len(first.prompt_token_ids)
    assert second.sampling.max_tokens == 16
    assert first.sampling.seed != second.sampling.seed


async def test_developer_messages_and_text_parts(gateway: RunningGateway) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await chat(gateway, messages=[{"role": "developer", "content": "S"}, {"role": "user", "content": parts}])
    prompt = bytes(token for token in gateway.scheduler.requests[0].prompt_token_ids if token < 256).decode()
    assert prompt == "system\nS\nuser\na\nb\nassistant\n"


async def test_samples_are_told_apart(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda _, index: Answer(text="abc"[index] * (index + 1))
    body = await chat(gateway, n=3)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "bb", "ccc"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        ([97, 98], [[97, 98]]),
        ([[97, 98], [99]], [[97, 98], [99]]),
    ],
)
async def test_forms_of_a_prompt(gateway: RunningGateway, prompt: Any, expected: list[list[int]]) -> None:
    await complete(gateway, prompt=prompt)
    assert [list(request.prompt_token_ids) for request in gateway.scheduler.requests] == expected


async def test_choices_of_several_prompts_are_numbered_by_prompt_then_sample(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda request, index: Answer(text=f"{chr(request.prompt_token_ids[0])}{index}")
    body = await complete(gateway, prompt=["x", "y"], n=2)
    assert [choice["text"] for choice in body["choices"]] == ["x0", "x1", "y0", "y1"]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 8,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    response = await gateway.http.post("/v1/completions", json={"prompt": ["x", "y"], "n": 2, "stream": True})
    texts = ["", "", "", ""]
    for chunk in sse(response)[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["x0", "x1", "y0", "y1"]


async def test_stop_string_across_tokens_is_cut_off_and_not_billed_beyond(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="one STOP two")
    body = await chat(gateway, stop=["STOP", "never"])
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("one ", "stop", "STOP")
    assert body["usage"]["completion_tokens"] == len("one STOP")
    await until(lambda: bool(gateway.scheduler.finishes))  # the answer does not wait for this message to the scheduler
    (finish,) = gateway.scheduler.finishes
    assert finish.num_tokens == len("one STOP")


async def test_stop_string_inside_an_event_of_several_tokens(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="one STOP two", tokens_per_event=5)
    body = await complete(gateway, prompt="a", stop="STOP", max_tokens=50)
    assert body["choices"][0]["text"] == "one "
    assert body["usage"]["completion_tokens"] == len("one STOP")


async def test_what_only_began_like_a_stop_string_comes_out(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="one ST")
    response = await gateway.http.post("/v1/completions", json={"prompt": "a", "stop": "STOP", "stream": True})
    texts = [chunk["choices"][0]["text"] for chunk in sse(response)[:-1]]
    assert texts == ["o", "n", "e", " ", "ST", ""]


async def test_stop_strings_wait_for_min_tokens(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="..x..")
    body = await complete(gateway, prompt="a", stop=".", min_tokens=3, max_tokens=9)
    assert body["choices"][0]["text"] == "..x"


async def test_stop_token_is_reported_and_not_text(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="ab\n", stop_token_id=10)
    body = await complete(gateway, prompt="a", stop_token_ids=[10])
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "stop", 10)
    assert body["usage"]["completion_tokens"] == 3


async def test_end_token_is_not_text(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(97, IM_END))
    body = await chat(gateway)
    assert body["choices"][0]["message"]["content"] == "a"
    assert body["choices"][0]["stop_reason"] is None


async def test_characters_are_whole_in_every_chunk(gateway: RunningGateway) -> None:
    text = "héllo 🏯 塔"
    gateway.scheduler.answer = lambda *_: Answer(text=text)
    response = await gateway.http.post(
        "/v1/chat/completions", json={"messages": MESSAGES, "stream": True, "max_tokens": 100}
    )
    contents = [chunk["choices"][0]["delta"].get("content", "") for chunk in sse(response)[:-1]]
    assert [content for content in contents if content] == list(text)


async def test_a_character_cut_by_the_limit_is_replaced(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="a🏯")
    body = await complete(gateway, prompt="a", max_tokens=3)
    assert body["choices"][0]["text"] == "a�"
    assert body["choices"][0]["finish_reason"] == "length"


async def test_chat_logprobs(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="é")
    body = await chat(gateway, logprobs=True, top_logprobs=2)
    assert body["choices"][0]["message"]["content"] == "é"
    first, second = body["choices"][0]["logprobs"]["content"]
    assert first["bytes"] == [0xC3] and second["bytes"] == [0xA9]
    assert first["logprob"] == -0.5
    assert [top["logprob"] for top in first["top_logprobs"]] == [-0.5, -1.5]
    assert first["top_logprobs"][0] == {"token": first["token"], "logprob": -0.5, "bytes": [0xC3]}


async def test_streamed_logprobs_come_with_the_text_of_their_tokens(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="aé")
    response = await gateway.http.post(
        "/v1/chat/completions", json={"messages": MESSAGES, "stream": True, "logprobs": True}
    )
    chunks = [chunk["choices"][0] for chunk in sse(response)[:-1]]
    assert [len(chunk["logprobs"]["content"]) for chunk in chunks if chunk["delta"].get("content")] == [1, 2]


async def test_completion_logprobs(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="abc")
    body = await complete(gateway, prompt="x", logprobs=2)
    assert body["choices"][0]["logprobs"] == {
        "text_offset": [0, 1, 2],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "tokens": ["a", "b", "c"],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, {"b": -0.5, "c": -1.5}, {"c": -0.5, "d": -1.5}],
    }


async def test_echo_puts_the_prompt_before_each_completion(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda _, index: Answer(text="!?"[index])
    body = await complete(gateway, prompt=["ab", "xy"], n=2, echo=True)
    assert [choice["text"] for choice in body["choices"]] == ["ab!", "ab?", "xy!", "xy?"]
    response = await gateway.http.post("/v1/completions", json={"prompt": "ab", "echo": True, "stream": True})
    assert [chunk["choices"][0]["text"] for chunk in sse(response)[:-1]] == ["ab", "!", ""]


async def test_echo_with_logprobs_scores_the_prompt(gateway: RunningGateway) -> None:
    """A completion with `echo` and `logprobs` scores its prompt, as evaluations request it."""
    gateway.scheduler.answer = lambda *_: Answer(text="!")
    (choice,) = (await complete(gateway, prompt="abc", echo=True, logprobs=1))["choices"]
    expected: dict[str, list[Any]] = {
        "text_offset": [0, 1, 2, 3],
        "token_logprobs": [None, -0.5, -0.5, -0.5],
        "tokens": ["a", "b", "c", "!"],
        "top_logprobs": [None, {"b": -0.5}, {"c": -0.5}, {"!": -0.5}],
    }
    assert (choice["text"], choice["logprobs"]) == ("abc!", expected)
    (choice,) = (await complete(gateway, prompt="abc", echo=True, logprobs=1, max_tokens=0))["choices"]
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {name: values[:3] for name, values in expected.items()}
    streamed = {"prompt": "abc", "echo": True, "logprobs": 1, "stream": True}
    chunks = [chunk["choices"][0] for chunk in sse(await gateway.http.post("/v1/completions", json=streamed))[:-1]]
    assert [chunk["text"] for chunk in chunks] == ["abc", "!", ""]
    assert chunks[0]["logprobs"] == {name: values[:3] for name, values in expected.items()}
    assert chunks[1]["logprobs"] == {name: values[3:] for name, values in expected.items()}


async def test_prompt_logprobs(gateway: RunningGateway) -> None:
    candidate = {"logprob": -0.5, "rank": 1, "decoded_token": "b"}
    alternative = {"logprob": -1.5, "rank": 2, "decoded_token": "c"}
    (choice,) = (await complete(gateway, prompt="ab", prompt_logprobs=2))["choices"]
    assert choice["prompt_logprobs"] == [None, {"98": candidate, "99": alternative}]
    assert choice["logprobs"] is None
    (choice,) = (await complete(gateway, prompt="ab", prompt_logprobs=0))["choices"]
    assert choice["prompt_logprobs"] == [None, {"98": candidate | {"rank": None}}]
    (choice,) = (await complete(gateway, prompt="a", prompt_logprobs=1))["choices"]
    assert choice["prompt_logprobs"] == [None]
    body = await chat(gateway, prompt_logprobs=1)
    assert len(body["prompt_logprobs"]) == body["usage"]["prompt_tokens"]
    assert "prompt_logprobs" not in await chat(gateway)


async def test_all_choices_of_a_prompt_have_its_logprobs(gateway: RunningGateway) -> None:
    """All choices of a prompt have its log-probabilities, although the scheduler sends them once."""
    body = await complete(gateway, prompt=["abcd", "xyz"], n=3, prompt_logprobs=1, echo=True, logprobs=1)
    lengths = [(len(choice["prompt_logprobs"]), len(choice["logprobs"]["tokens"])) for choice in body["choices"]]
    assert lengths == [(4, 4 + len("Hello!"))] * 3 + [(3, 3 + len("Hello!"))] * 3


async def test_too_many_prompt_logprobs_are_refused(gateway: RunningGateway) -> None:
    for path, named in (
        ("/v1/completions", {"prompt": "x" * 200, "n": 128, "prompt_logprobs": 20}),
        ("/v1/completions", {"prompt": ["x" * 200] * 128, "prompt_logprobs": 20}),
        ("/v1/completions", {"prompt": "x" * 200, "n": 128, "echo": True, "logprobs": 20}),
        (
            "/v1/chat/completions",
            {"n": 128, "prompt_logprobs": 20, "messages": [{"role": "user", "content": "x" * 200}]},
        ),
    ):
        response = await gateway.http.post(path, json=named)
        assert response.status_code == 400 and "at most 300000" in response.json()["error"]["message"]
    assert not gateway.scheduler.requests


async def test_echo_alone(gateway: RunningGateway) -> None:
    body = await complete(gateway, prompt="ab", echo=True, max_tokens=0)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], body["usage"]["completion_tokens"]) == ("ab", "length", 0)
    response = await gateway.http.post(
        "/v1/completions", json={"prompt": "ab", "echo": True, "max_tokens": 0, "stream": True}
    )
    chunks = [chunk["choices"][0] for chunk in sse(response)[:-1]]
    assert [(chunk["text"], chunk["finish_reason"]) for chunk in chunks] == [("ab", None), ("", "length")]


async def test_token_ids_of_prompt_and_answer(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(97, 0xC3, 0xA9, IM_END))
    body = await chat(gateway, return_token_ids=True)
    assert body["prompt_token_ids"] == list(gateway.scheduler.requests[0].prompt_token_ids)
    assert body["choices"][0]["token_ids"] == [97, 0xC3, 0xA9, IM_END]
    (choice,) = (await complete(gateway, prompt="ab", return_token_ids=True))["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([97, 98], [97, 0xC3, 0xA9, IM_END])
    streamed = {"messages": MESSAGES, "stream": True, "return_token_ids": True}
    first, *chunks, _ = sse(await gateway.http.post("/v1/chat/completions", json=streamed))
    assert first["prompt_token_ids"] == body["prompt_token_ids"]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[97], [0xC3, 0xA9], [IM_END]]
    streamed = {"prompt": "ab", "stream": True, "return_token_ids": True}
    first, *chunks, _ = sse(await gateway.http.post("/v1/completions", json=streamed))
    assert first["choices"][0]["prompt_token_ids"] == [97, 98]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[97], [0xC3, 0xA9], [IM_END]]


async def test_tokens_named_by_their_ids(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="a")
    fields = {"logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True}
    (token,) = (await chat(gateway, **fields))["choices"][0]["logprobs"]["content"]
    assert [token["token"], *[top["token"] for top in token["top_logprobs"]]] == [
        "token_id:97",
        "token_id:97",
        "token_id:98",
    ]
    body = await complete(gateway, prompt="x", logprobs=0, return_tokens_as_token_ids=True)
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [{"token_id:97": -0.5}]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "one "),
        ({"include_stop_str_in_output": True}, "one STOP"),
        ({"stop": None, "stop_token_ids": [ord("T")], "include_stop_str_in_output": True}, "one STOP two"),
    ],
)
async def test_what_ended_a_sample_is_shown_on_request(
    gateway: RunningGateway, fields: dict[str, Any], expected: str
) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="one STOP two")
    body = await complete(gateway, **{"prompt": "a", "stop": "STOP", "max_tokens": 50, **fields})
    assert body["choices"][0]["text"] == expected


async def test_special_tokens_are_shown_on_request(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(97, IM_START, 98, IM_END))
    assert (await complete(gateway, prompt="a"))["choices"][0]["text"] == "ab"
    shown = await complete(gateway, prompt="a", skip_special_tokens=False)
    assert shown["choices"][0]["text"] == "a<|im_start|>b"
    all_shown = await complete(gateway, prompt="a", skip_special_tokens=False, include_stop_str_in_output=True)
    assert all_shown["choices"][0]["text"] == "a<|im_start|>b<|im_end|>"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"truncate_prompt_tokens": 2}, "ef"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, "ab"),
        ({"truncate_prompt_tokens": 100}, "abcdef"),
        ({"truncate_prompt_tokens": -1}, "abcdef"),
    ],
)
async def test_prompts_are_cut_on_request(gateway: RunningGateway, fields: dict[str, Any], expected: str) -> None:
    body = await complete(gateway, prompt="abcdef", **fields)
    assert bytes(gateway.scheduler.requests[0].prompt_token_ids).decode() == expected
    assert body["usage"]["prompt_tokens"] == len(expected)


async def test_a_prompt_is_cut_to_what_leaves_room(gateway: RunningGateway) -> None:
    await complete(gateway, prompt="x" * 600, truncate_prompt_tokens=-1, max_tokens=12)
    assert len(gateway.scheduler.requests[0].prompt_token_ids) == 500
    await complete(gateway, prompt="x" * 600, truncate_prompt_tokens=-1, max_tokens=1000)
    assert len(gateway.scheduler.requests[1].prompt_token_ids) == 1


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({}, "assistant\nHey \nassistant\n"),
        ({"add_generation_prompt": False}, "assistant\nHey \n"),
        ({"continue_final_message": True}, "assistant\nHey "),
    ],
)
async def test_how_a_conversation_ends(gateway: RunningGateway, fields: dict[str, Any], ending: str) -> None:
    await chat(gateway, messages=[*MESSAGES, {"role": "assistant", "content": "Hey "}], **fields)
    prompt = bytes(token for token in gateway.scheduler.requests[0].prompt_token_ids if token < 256).decode()
    assert prompt == f"user\nHi\n{ending}"


async def test_priority_and_a_name_for_the_request(gateway: RunningGateway) -> None:
    body = await chat(gateway, priority=-3, request_id="mine-1")
    assert gateway.scheduler.requests[0].priority == -3
    assert body["id"] == "chatcmpl-mine-1"


async def test_tokenize_and_detokenize(gateway: RunningGateway) -> None:
    body = (await gateway.http.post("/tokenize", json={"prompt": "aé"})).json()
    assert body == {"count": 3, "max_model_len": 512, "tokens": [97, 0xC3, 0xA9], "token_strs": None}
    body = (await gateway.http.post("/tokenize", json={"messages": MESSAGES, "return_token_strs": True})).json()
    assert body["tokens"][0] == IM_START and body["token_strs"][0] == "<|im_start|>"
    await chat(gateway)
    assert body["tokens"] == list(gateway.scheduler.requests[0].prompt_token_ids)
    shorter = {"messages": MESSAGES, "add_generation_prompt": False}
    assert (await gateway.http.post("/tokenize", json=shorter)).json()["count"] < body["count"]
    text = (await gateway.http.post("/detokenize", json={"tokens": [IM_START, 97, 0xC3, 0xA9]})).json()
    assert text == {"prompt": "<|im_start|>aé"}
    for path, wrong in (("/tokenize", {}), ("/tokenize", {"prompt": 5}), ("/detokenize", {"tokens": [100_000]})):
        response = await gateway.http.post(path, json=wrong)
        assert response.status_code == 400 and response.json()["error"]["param"] in ("prompt", "tokens")


async def test_models(gateway: RunningGateway) -> None:
    body = (await gateway.http.get("/v1/models")).json()
    (model,) = body["data"]
    assert (model["id"], model["owned_by"], model["max_model_len"]) == ("tiny", "pagoda", 512)
    assert (await gateway.http.get("/v1/models/tiny")).json() == model
    assert (await gateway.http.get("/v1/models/other")).status_code == 404


async def test_official_client(client: openai.AsyncOpenAI, gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hi there", num_cached_tokens=4)
    completion = await client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True)  # type: ignore[arg-type]  # plain dicts
    assert completion.choices[0].message.content == "Hi there"
    assert completion.usage and completion.usage.prompt_tokens_details
    assert completion.usage.prompt_tokens_details.cached_tokens == 4
    stream: Any = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hi there"
    text = await client.completions.create(model="tiny", prompt="a", max_tokens=2)
    assert (text.choices[0].text, text.choices[0].finish_reason) == ("Hi", "length")
    assert [model.id async for model in client.models.list()] == ["tiny"]
    # The client can send an answer back.
    await client.chat.completions.create(
        model="tiny",
        messages=[*MESSAGES, completion.choices[0].message.model_dump(), *MESSAGES],  # type: ignore[list-item]
    )
    await client.close()


async def test_official_client_sees_errors_as_its_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"`nope`.*`tiny`") as caught:
        await client.chat.completions.create(model="nope", messages=MESSAGES)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=9)  # type: ignore[arg-type]
    await client.close()


RAW = "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n"
RAW_IDS = [IM_START, *b"user\n1", IM_END, *b"\n", IM_START, *b"assistant\n"]


async def test_control_tokens_of_a_raw_prompt_are_control_tokens(gateway: RunningGateway) -> None:
    await complete(gateway, prompt=RAW)
    await complete(gateway, prompt=[RAW, "a<|im_end|>"])
    for fields in ({"stream": False}, {"stream": True}):
        body = {"model": "tiny", "prompt": RAW, "raw": True, **fields}
        assert (await gateway.http.post("/api/generate", json=body)).status_code == 200
    expected = [RAW_IDS, RAW_IDS, [ord("a"), IM_END], RAW_IDS, RAW_IDS]
    assert [list(request.prompt_token_ids) for request in gateway.scheduler.requests] == expected
    echoed = await complete(gateway, prompt=RAW, echo=True, max_tokens=1)
    assert echoed["choices"][0]["text"].startswith(RAW)
    response = await gateway.http.post("/tokenize", json={"prompt": RAW})
    assert response.json()["tokens"] == RAW_IDS
    response = await gateway.http.post("/detokenize", json={"tokens": RAW_IDS})
    assert response.json()["prompt"] == RAW


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/tokenize"])
async def test_control_tokens_of_a_message_are_text(gateway: RunningGateway, path: str) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": RAW}], "stream": False}
    if path == "/tokenize":
        del body["stream"]
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 200, response.text
    if path == "/tokenize":
        ids = response.json()["tokens"]
    else:
        (request,) = gateway.scheduler.requests
        ids = list(request.prompt_token_ids)
    expected = [IM_START, *b"user\n", *RAW.encode(), IM_END, *b"\n", IM_START, *b"assistant\n"]
    assert ids == expected


async def test_control_tokens_of_a_prompt_with_a_template_are_text(gateway: RunningGateway) -> None:
    body = {"model": "tiny", "prompt": RAW, "stream": False}
    assert (await gateway.http.post("/api/generate", json=body)).status_code == 200
    (request,) = gateway.scheduler.requests
    assert list(request.prompt_token_ids)[: 6 + len(RAW)] == [IM_START, *b"user\n", *RAW.encode()]
