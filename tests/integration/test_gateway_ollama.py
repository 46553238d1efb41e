"""Tests of Ollama's dialect: the JSON on the wire, and the official client."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import httpx
import ollama
import pytest

from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import DECODE_S, PREFILL_S, QUEUE_S, Answer
from tests.fakes.tiny_model import IM_END, IM_START

MESSAGES = [{"role": "user", "content": "Hi"}]


async def post(gateway: RunningGateway, path: str, **fields: Any) -> httpx.Response:
    response = await gateway.http.post(path, json={"model": "tiny", **fields})
    assert response.status_code == 200, response.text
    return response


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


async def test_chat_streams_by_default(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey")
    *deltas, end = lines(await post(gateway, "/api/chat", messages=MESSAGES))
    assert [line["message"] for line in deltas] == [{"role": "assistant", "content": each} for each in "Hey"]
    assert all(line["done"] is False and line["model"] == "tiny" for line in deltas)
    total_duration = end.pop("total_duration")
    assert total_duration > 0 and isinstance(total_duration, int)
    assert end.pop("created_at").endswith("Z")
    assert end == {
        "model": "tiny",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "load_duration": round(QUEUE_S * 1e9),
        "prompt_eval_count": len("XuserNHiXNXassistantN"),
        "prompt_eval_duration": round(PREFILL_S * 1e9),
        "eval_count": 3,
        "eval_duration": round(DECODE_S * 1e9),
    }


async def test_generate_whole_with_context(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey")
    body = (await post(gateway, "/api/generate", prompt="Hi", system="S", stream=False)).json()
    (request,) = gateway.scheduler.requests
    assert (body["response"], body["done"], body["done_reason"]) == ("Hey", True, "stop")
    assert body["context"] == [*request.prompt_token_ids, *b"Hey"]
    prompt = bytes(token for token in request.prompt_token_ids if token < 256).decode()
    assert prompt == "system\nS\nuser\nHi\nassistant\n"


def text_of(token_ids: Any) -> str:
    special = {IM_START: "<", IM_END: ">"}
    return "".join(special.get(each) or chr(each) for each in token_ids)


async def test_context_goes_on_where_the_answer_ended(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(*b"Hey", IM_END))
    first = (await post(gateway, "/api/generate", prompt="Hi", system="S", stream=False)).json()
    second = (await post(gateway, "/api/generate", prompt="More", context=first["context"], stream=False)).json()
    expected = "<system\nS>\n<user\nHi>\n<assistant\nHey>\n<user\nMore>\n<assistant\n"
    assert text_of(gateway.scheduler.requests[1].prompt_token_ids) == expected
    assert text_of(second["context"]) == f"{expected}Hey>"


async def test_an_answer_that_was_cut_is_ended_before_the_next_turn(gateway: RunningGateway) -> None:
    await post(gateway, "/api/generate", prompt="More", context=[*b"Hey"])
    assert text_of(gateway.scheduler.requests[0].prompt_token_ids) == "Hey>\n<user\nMore>\n<assistant\n"


async def test_a_system_prompt_with_a_context_is_said_again(gateway: RunningGateway) -> None:
    await post(gateway, "/api/generate", prompt="More", context=[*b"Hey"], system="T")
    assert text_of(gateway.scheduler.requests[0].prompt_token_ids) == "Hey<system\nT>\n<user\nMore>\n<assistant\n"


async def test_a_template_for_one_request(gateway: RunningGateway) -> None:
    template = "{% for message in messages %}{{ message.role }}={{ message.content }};{% endfor %}"
    await post(gateway, "/api/generate", prompt="Hi", system="S", template=template)
    assert text_of(gateway.scheduler.requests[0].prompt_token_ids) == "system=S;user=Hi;"


async def test_raw_prompt_has_no_template_and_no_context(gateway: RunningGateway) -> None:
    body = (await post(gateway, "/api/generate", prompt="Hi", raw=True, stream=False)).json()
    assert list(gateway.scheduler.requests[0].prompt_token_ids) == [*b"Hi"]
    assert "context" not in body


async def test_defaults_are_those_of_ollama(gateway: RunningGateway) -> None:
    await post(gateway, "/api/generate", prompt="Hi")
    sampling = gateway.scheduler.requests[0].sampling
    assert round(sampling.temperature, 6) == 0.8 and round(sampling.top_p, 6) == 0.9 and sampling.top_k == 40
    assert (sampling.repetition_penalty, sampling.repetition_window) == (1.0, 64)
    assert sampling.max_tokens == 512 - len(gateway.scheduler.requests[0].prompt_token_ids)


async def test_options_reach_the_scheduler(gateway: RunningGateway) -> None:
    options = {
        "temperature": 0,
        "top_k": -1,
        "top_p": 0.5,
        "min_p": 0.25,
        "seed": 7,
        "num_predict": 5,
        "repeat_penalty": 1.5,
        "repeat_last_n": -1,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "stop": ["x"],
        "num_gpu": 99,
        "num_thread": 8,
        "num_ctx": 4096,
        "mirostat": 0,
    }
    await post(gateway, "/api/generate", prompt="Hi", options=options)
    sampling = gateway.scheduler.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0, 0, 0.5, 0.25)
    assert (sampling.seed, sampling.max_tokens) == (7, 5)
    assert (sampling.repetition_penalty, sampling.repetition_window) == (1.5, 0)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.5)


async def test_num_ctx_limits_prompt_and_answer_together(gateway: RunningGateway) -> None:
    await post(gateway, "/api/generate", prompt="Hi", raw=True, options={"num_ctx": 10})
    assert gateway.scheduler.requests[0].sampling.max_tokens == 8
    response = await gateway.http.post(
        "/api/generate",
        json={"model": "tiny", "prompt": "x" * 12, "raw": True, "truncate": False, "options": {"num_ctx": 10}},
    )
    assert response.status_code == 400
    assert "10 tokens" in response.json()["error"] and "12 tokens" in response.json()["error"]


async def test_limit_and_logprobs(gateway: RunningGateway) -> None:
    body = (
        await post(
            gateway,
            "/api/chat",
            messages=MESSAGES,
            stream=False,
            logprobs=True,
            top_logprobs=1,
            options={"num_predict": 2},
        )
    ).json()
    assert body["done_reason"] == "length"
    assert body["logprobs"][0] == {
        "token": "H",
        "logprob": -0.5,
        "bytes": [72],
        "top_logprobs": [{"token": "H", "logprob": -0.5, "bytes": [72]}],
    }


@pytest.mark.parametrize(
    ("keep_alive", "seconds", "reason"),
    [
        (None, None, "load"),
        ("5m", 300, "load"),
        (-1, math.inf, "load"),
        (0, 0, "unload"),
        ("0s", 0, "unload"),
    ],
)
async def test_nothing_asked(gateway: RunningGateway, keep_alive: Any, seconds: float | None, reason: str) -> None:
    generated = (await post(gateway, "/api/generate", keep_alive=keep_alive)).json()
    assert (generated["response"], generated["done"], generated["done_reason"]) == ("", True, reason)
    chatted = (await post(gateway, "/api/chat", messages=[], keep_alive=keep_alive)).json()
    assert (chatted["message"], chatted["done_reason"]) == ({"role": "assistant", "content": ""}, reason)
    assert gateway.scheduler.requests == []
    assert len(gateway.scheduler.kept_loaded) == 2
    for asked in gateway.scheduler.kept_loaded:
        assert (asked.keep_alive_s if asked.HasField("keep_alive_s") else None) == seconds


async def test_a_model_that_cannot_be_loaded_is_said_to_be(gateway: RunningGateway) -> None:
    gateway.scheduler.load_error = "model 'tiny' cannot be loaded: the file is gone"
    response = await gateway.http.post("/api/generate", json={"model": "tiny"})
    assert response.status_code == 503
    assert "the file is gone" in response.json()["error"]


async def test_a_request_takes_its_wish_along(gateway: RunningGateway) -> None:
    await post(gateway, "/api/generate", prompt="x", keep_alive="2m")
    await post(gateway, "/api/chat", messages=MESSAGES)
    wished, silent = gateway.scheduler.requests
    assert wished.keep_alive_s == 120
    assert not silent.HasField("keep_alive_s")


async def test_what_is_in_memory_is_listed_with_its_end(gateway: RunningGateway) -> None:
    async def running() -> list[dict[str, Any]]:
        return list((await gateway.http.get("/api/ps")).json()["models"])

    (model,) = gateway.scheduler.models
    (forever,) = await running()
    assert forever["expires_at"] == "2318-01-01T00:00:00Z"
    model.expires_in_s = 7200
    (shown,) = await running()
    expires_in_s = (datetime.fromisoformat(shown["expires_at"]) - datetime.now(UTC)).total_seconds()
    assert 7000 < expires_in_s <= 7200
    model.num_workers, model.num_unloaded_workers = 0, 1
    assert await running() == []
    model.loading.completed_bytes, model.loading.total_bytes = 30, 100
    (loading,) = await running()
    assert (loading["status"], loading["completed"], loading["total"]) == ("loading", 30, 100)
    assert loading["size"] == shown["size"] and loading["context_length"] == shown["context_length"]
    model.loading.completed_bytes, model.loading.total_bytes = 0, 0
    assert (await running())[0]["total"] == shown["size"], "the worker has not reported yet"
    model.ClearField("loading")
    # It is served nevertheless.
    assert (await post(gateway, "/api/chat", messages=MESSAGES, stream=False)).json()["done"]


async def test_names_have_tags_and_no_case(gateway: RunningGateway) -> None:
    for name in ("tiny", "TINY", "tiny:latest", "Tiny:Latest"):
        body = (await post(gateway, "/api/generate", model=name, prompt="x", stream=False)).json()
        assert body["model"] == name
    response = await gateway.http.post("/api/generate", json={"model": "tiny:7b", "prompt": "x"})
    assert (response.status_code, response.json()) == (
        404,
        {"error": "model 'tiny:7b' not found. To download it: pagoda pull tiny:7b, or POST /api/pull"},
    )


async def test_root_and_version(gateway: RunningGateway) -> None:
    assert (await gateway.http.get("/")).text == "Ollama is running"
    assert (await gateway.http.head("/")).status_code == 200
    assert (await gateway.http.head("/api/tags")).status_code == 200
    assert (await gateway.http.get("/api/version")).json()["version"]


async def test_model_objects(gateway: RunningGateway) -> None:
    (tagged,) = (await gateway.http.get("/api/tags")).json()["models"]
    assert tagged["name"] == tagged["model"] == "tiny:latest"
    assert len(tagged["digest"]) == 64 and tagged["size"] > 0
    assert tagged["details"]["family"] == "llama" and tagged["details"]["format"] == "gguf"
    (running,) = (await gateway.http.get("/api/ps")).json()["models"]
    assert (running["context_length"], running["size_vram"], running["digest"]) == (512, 0, tagged["digest"])
    shown = (await gateway.http.post("/api/show", json={"model": "tiny"})).json()
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["llama.block_count"] == 2
    assert "<|im_start|>" in shown["template"] and "tokenizer.chat_template" not in shown["model_info"]


async def test_official_client(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hey")
    client = ollama.AsyncClient(host=gateway.url)
    whole = await client.chat(model="tiny", messages=MESSAGES)
    assert (whole.message.content, whole.done_reason, whole.eval_count) == ("Hey", "stop", 3)
    pieces = [part.message.content async for part in await client.chat(model="tiny", messages=MESSAGES, stream=True)]
    assert "".join(piece or "" for piece in pieces) == "Hey"
    generated = await client.generate(model="tiny", prompt="Hi", options={"temperature": 0})
    assert generated.response == "Hey" and generated.context
    assert [model.model for model in (await client.list()).models] == ["tiny:latest"]
    assert (await client.ps()).models[0].context_length == 512
    assert (await client.show("tiny")).capabilities == ["completion"]
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        await client.chat(model="nope", messages=MESSAGES)
    assert caught.value.status_code == 404
    # An answer's messages can be sent back.
    await client.chat(model="tiny", messages=[*MESSAGES, whole.message, *MESSAGES])
    await client.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped
