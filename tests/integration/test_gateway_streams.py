"""Tests of requests that are disturbed: clients that leave, schedulers that refuse, fail or vanish, and the shutdown."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.log_records import own_records
from tests.fakes.scheduler import SERVICE_NAME, Answer, FakeScheduler

Call = tuple[str, dict[str, Any]]
CHAT: Call = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
OLLAMA: Call = ("/api/generate", {"model": "tiny", "prompt": "Hi"})
HELD = Answer(text="Hello", hold_before=2)


@pytest.mark.parametrize(("path", "body"), [CHAT, OLLAMA], ids=["openai", "ollama"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hold_before", [0, 2])
async def test_a_client_that_leaves_cancels_its_request(
    gateway: RunningGateway,
    path: str,
    body: dict[str, Any],
    stream: bool,
    hold_before: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=hold_before)
    request = asyncio.create_task(gateway.http.post(path, json=body | {"stream": stream}))
    request_id = await gateway.scheduler.held.get()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert await gateway.scheduler.cancelled.get() == request_id
    await gateway.app.state.gateway.drain.wait_until_idle()
    assert [record.message for record in own_records(caplog) if record.levelname == "ERROR"] == []


async def test_a_client_that_leaves_cancels_each_of_its_prompts(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: HELD
    request = asyncio.create_task(gateway.http.post("/v1/completions", json={"prompt": ["a", "b"]}))
    held = {await gateway.scheduler.held.get(), await gateway.scheduler.held.get()}
    request.cancel()
    assert {await gateway.scheduler.cancelled.get(), await gateway.scheduler.cancelled.get()} == held
    await asyncio.gather(request, return_exceptions=True)


async def test_text_arrives_while_the_answer_grows(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: HELD
    path, body = CHAT
    async with gateway.http.stream("POST", path, json=body | {"stream": True}) as response:
        content = ""
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                content += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            if content == "He":
                gateway.scheduler.release.set()
        assert content == "Hello"


@pytest.mark.parametrize(("path", "body"), [CHAT, OLLAMA], ids=["openai", "ollama"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        ((grpc.StatusCode.INVALID_ARGUMENT, "too long: 9 of 8", None), 400, None),
        ((grpc.StatusCode.NOT_FOUND, "no such model", None), 404, None),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", 2.5), 429, "3"),
        ((grpc.StatusCode.UNAVAILABLE, "no worker", None), 503, "1"),
        ((grpc.StatusCode.DEADLINE_EXCEEDED, "too late", None), 504, None),
        ((grpc.StatusCode.INTERNAL, "a bug", None), 500, None),
        ((grpc.StatusCode.DATA_LOSS, "no row of the table", None), 500, None),
    ],
    ids=lambda value: value[0].name if isinstance(value, tuple) else None,
)
async def test_refusals_have_the_status_of_the_table(
    gateway: RunningGateway,
    path: str,
    body: dict[str, Any],
    stream: bool,
    refusal: tuple[grpc.StatusCode, str, float | None],
    status: int,
    retry_after: str | None,
) -> None:
    gateway.scheduler.answer = lambda *_: Answer(refusal=refusal)
    response = await gateway.http.post(path, json=body | {"stream": stream})
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    error = response.json()["error"]
    assert (error if isinstance(error, str) else error["message"]) == refusal[1]


async def test_a_failure_in_the_middle_is_the_last_event(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", failure_after=2)
    path, body = CHAT
    response = await gateway.http.post(path, json=body | {"stream": True})
    assert response.status_code == 200
    *_, error, done, rest = response.text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "the script says so"
    assert (done, rest) == ("data: [DONE]", "")
    path, body = OLLAMA
    lines = (await gateway.http.post(path, json=body)).text.splitlines()
    assert json.loads(lines[-1]) == {"error": "the script says so"}
    assert (await gateway.http.post(path, json=body | {"stream": False})).status_code == 500


@pytest.mark.parametrize(("path", "body"), [CHAT, OLLAMA], ids=["openai", "ollama"])
@pytest.mark.parametrize("stream", [True, False])
async def test_requests_go_on_in_another_session_where_they_had_come_to(
    gateway: RunningGateway, path: str, body: dict[str, Any], stream: bool
) -> None:
    undisturbed = (await gateway.http.post(path, json=body | {"stream": stream})).text
    gateway.scheduler.answer = lambda *_: Answer(hold_before=2)
    request = asyncio.create_task(gateway.http.post(path, json=body | {"stream": stream}))
    await gateway.scheduler.held.get()
    gateway.scheduler.break_sessions()
    await gateway.scheduler.held.get()
    gateway.scheduler.release.set()
    response = await request
    assert response.status_code == 200
    assert pieces(response.text) == pieces(undisturbed)
    _, first, again = gateway.scheduler.requests
    (resumed,) = again.resume
    assert (list(resumed.generated_token_ids), resumed.finished) == (list(b"He"), False)
    again.ClearField("resume")
    assert again == first


def pieces(text: str) -> list[Any]:
    """Return the parts of a reply that a client sees, without times and ids."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line and line != "data: [DONE]"]
    replies = [json.loads(line) for line in lines]
    return [[reply.get(name) for name in ("choices", "response", "usage", "eval_count")] for reply in replies]


async def test_samples_that_had_ended_are_not_asked_for_again(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda _, index: Answer(text="Hello" if index else "Bye", hold_before=4)
    body = {"prompt": "x", "n": 2, "logprobs": 0, "echo": True, "prompt_logprobs": 0}
    request = asyncio.create_task(gateway.http.post("/v1/completions", json=body))
    await gateway.scheduler.held.get()
    gateway.scheduler.break_sessions()
    await gateway.scheduler.held.get()
    gateway.scheduler.release.set()
    response = (await request).json()
    assert [choice["text"] for choice in response["choices"]] == ["xBye", "xHello"]
    assert response["usage"]["completion_tokens"] == 8
    assert [len(choice["logprobs"]["tokens"]) for choice in response["choices"]] == [4, 6]
    assert [sample.finished for sample in gateway.scheduler.requests[-1].resume] == [True, False]


async def test_a_scheduler_that_is_back_before_its_workers_is_waited_for(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: HELD
    request = asyncio.create_task(gateway.http.post(CHAT[0], json=CHAT[1]))
    await gateway.scheduler.held.get()
    refusals = [
        (grpc.StatusCode.UNAVAILABLE, "no worker is attached", 2.0),
        (grpc.StatusCode.NOT_FOUND, "which?", None),
    ]
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", refusal=refusals.pop() if refusals else None)
    known, gateway.scheduler.models = gateway.scheduler.models, []
    await gateway.scheduler.opened.get()
    gateway.scheduler.break_sessions()
    await gateway.scheduler.opened.get()
    # A listing in between must not make the gateway forget that there were workers.
    await gateway.http.get("/v1/models")
    meanwhile = await gateway.http.post(OLLAMA[0], json=OLLAMA[1] | {"stream": False})
    assert meanwhile.json()["response"] == "Hello"
    assert (await request).json()["choices"][0]["message"]["content"] == "Hello"
    gateway.scheduler.models = known
    assert not refusals


async def test_new_requests_wait_for_a_lost_scheduler(gateway: RunningGateway) -> None:
    await gateway.scheduler.server.stop(0)
    requests = [asyncio.create_task(gateway.http.post(path, json=body)) for path, body in (CHAT, OLLAMA)]
    async with FakeScheduler(gateway.scheduler.address, "tiny") as successor:
        for request in requests:
            assert (await request).status_code == 200
    assert len(successor.requests) == 2


async def test_a_scheduler_that_restarts_is_waited_for(gateway: RunningGateway) -> None:
    gateway.scheduler.is_shutting_down = True
    gateway.scheduler.answer = lambda *_: Answer(refusal=(grpc.StatusCode.UNAVAILABLE, "shutting down", 1.0))
    requests = [asyncio.create_task(gateway.http.post(path, json=body)) for path, body in (CHAT, OLLAMA)]
    for _ in requests:
        await gateway.scheduler.opened.get()
    await gateway.scheduler.server.stop(0)
    async with FakeScheduler(gateway.scheduler.address, "tiny"):
        assert [(await request).status_code for request in requests] == [200, 200]


async def test_a_scheduler_whose_last_worker_restarts_is_waited_for(gateway: RunningGateway) -> None:
    refusal = (grpc.StatusCode.UNAVAILABLE, "no worker is attached", 2.0)
    gateway.scheduler.answer = lambda *_: Answer(refusal=refusal)
    await gateway.scheduler.server.set_serving(SERVICE_NAME, False)
    while (await gateway.http.get("/ready")).status_code != 503:
        pass
    request = asyncio.create_task(gateway.http.post(CHAT[0], json=CHAT[1]))
    await gateway.scheduler.opened.get()
    gateway.scheduler.answer = lambda *_: Answer()
    await gateway.scheduler.server.set_serving(SERVICE_NAME, True)
    assert (await request).status_code == 200


async def test_an_outage_that_lasts_ends_what_was_open(short_path: Path) -> None:
    async with running_gateway(short_path, scheduler_grace_s=0.2) as gateway:
        gateway.scheduler.answer = lambda *_: HELD
        request = asyncio.create_task(gateway.http.post(CHAT[0], json=CHAT[1]))
        await gateway.scheduler.held.get()
        await gateway.scheduler.server.stop(0)
        response = await request
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert (await gateway.http.post(CHAT[0], json=CHAT[1])).status_code == 503


async def test_moves_are_counted(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(hold_before=2)
    request = asyncio.create_task(gateway.http.post(CHAT[0], json=CHAT[1]))
    await gateway.scheduler.held.get()
    gateway.scheduler.break_sessions()
    await gateway.scheduler.held.get()
    gateway.scheduler.release.set()
    await request
    assert 'pagoda_moved_samples_total{engine="0",model_name="tiny"} 1.0' in (await gateway.http.get("/metrics")).text


async def test_without_a_worker_requests_are_refused_and_listings_are_not(gateway: RunningGateway) -> None:
    gateway.scheduler.models = []
    for path, body in (CHAT, OLLAMA):
        response = await gateway.http.post(path, json=body)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert (await gateway.http.get("/v1/models")).json()["data"][0]["max_model_len"] is None
    assert (await gateway.http.get("/api/ps")).json() == {"models": []}


async def test_a_crash_of_ours_is_a_500_in_the_dialects_shape(gateway: RunningGateway) -> None:
    def crash(*_: object) -> Answer:
        raise AssertionError("never called")

    gateway.scheduler.answer = crash
    object.__setattr__(gateway.app.state.gateway, "generator", None)
    openai = await gateway.http.post(CHAT[0], json=CHAT[1], headers={"x-request-id": "abc"})
    assert (openai.status_code, openai.headers["x-request-id"]) == (500, "abc")
    assert openai.json()["error"]["type"] == "server_error"
    assert (await gateway.http.post(OLLAMA[0], json=OLLAMA[1])).json() == {"error": "Internal server error."}


async def test_while_draining_streams_finish_and_nothing_new_begins(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: HELD
    path, body = CHAT
    request = asyncio.create_task(gateway.http.post(path, json=body))
    await gateway.scheduler.held.get()
    drain = gateway.app.state.gateway.drain
    drain.refuse_requests()
    assert (await gateway.http.get("/health")).status_code == 200
    ready = await gateway.http.get("/ready")
    assert (ready.status_code, ready.json()["reason"]) == (503, "the gateway is shutting down")
    refused = await gateway.http.post(path, json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    gateway.scheduler.release.set()
    assert (await request).json()["choices"][0]["message"]["content"] == "Hello"
    await drain.wait_until_idle()


async def test_many_requests_share_the_session(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda request, _: Answer(text=bytes(request.prompt_token_ids).decode() * 3)
    prompts = [f"<{number}>" for number in range(40)]
    responses = await asyncio.gather(
        *(gateway.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 99}) for prompt in prompts)
    )
    assert [response.json()["choices"][0]["text"] for response in responses] == [prompt * 3 for prompt in prompts]


async def test_request_timeout_is_sent_along(short_path: Path) -> None:
    async with running_gateway(short_path, request_timeout_s=1.5) as gateway:
        await gateway.http.post(CHAT[0], json=CHAT[1])
        assert gateway.scheduler.requests[0].timeout_ms == 1500


async def test_trace_context_is_sent_along(gateway: RunningGateway) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await gateway.http.post(CHAT[0], json=CHAT[1], headers={"traceparent": traceparent, "tracestate": "a=b"})
    (request,) = gateway.scheduler.requests
    assert (request.traceparent, request.tracestate) == (traceparent, "a=b")


async def test_no_connection_to_the_scheduler(short_path: Path) -> None:
    async with running_gateway(short_path, scheduler_grace_s=0) as gateway:
        await gateway.scheduler.server.stop(0)
        for path, body in (CHAT, OLLAMA):
            response: httpx.Response = await gateway.http.post(path, json=body)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert (await gateway.http.get("/ready")).status_code == 503
