"""Tests of health, readiness, metrics, request ids and the key."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import NUM_PREEMPTIONS, SERVICE_NAME, Answer

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


async def until_ready(gateway: RunningGateway) -> None:
    """Wait until the gateway is ready: the scheduler's health arrives a moment after its session."""
    async with asyncio.timeout(200):
        while (await gateway.http.get("/ready")).status_code != 200:
            pass


async def samples(gateway: RunningGateway) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the values by name and label values, without model and engine, with the labels in alphabetical order."""
    text = (await gateway.http.get("/metrics")).text
    return {
        (
            sample.name,
            tuple(value for key, value in sample.labels.items() if key not in ("model_name", "engine")),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_ready_follows_health_and_models(gateway: RunningGateway) -> None:
    await until_ready(gateway)
    gateway.scheduler.models[0].num_workers = 0
    response = await gateway.http.get("/ready")
    assert response.status_code == 503
    assert "No worker serves" in response.json()["reason"]
    gateway.scheduler.models[0].num_workers = 1
    await until_ready(gateway)
    await gateway.scheduler.server.set_serving(SERVICE_NAME, False)
    async with asyncio.timeout(200):
        while (response := await gateway.http.get("/ready")).status_code == 200:
            pass
    assert "NOT_SERVING" in response.json()["reason"]
    assert (await gateway.http.get("/health")).status_code == 200


async def test_metrics_have_the_names_that_dashboards_know(gateway: RunningGateway) -> None:
    gateway.scheduler.load = inference_pb2.GetLoadResponse(
        workers=[
            inference_pb2.WorkerLoad(
                worker_id="w1",
                num_running=2,
                num_pages_free=50,
                num_pages_cached=25,
                num_pages_used=25,
                weights_bytes=400,
                kv_bytes=300,
            )
        ],
        num_steps=12,
        num_step_tokens=150,
        num_waiting=3,
        num_running=2,
        queues=[
            inference_pb2.QueueLoad(model="tiny", tenant="alice", num_waiting=2, oldest_s=4.5, next_position=2),
            inference_pb2.QueueLoad(model="tiny", tenant="bob", num_waiting=1, oldest_s=0.5, next_position=1),
        ],
        queue_drain_per_s=2.0,
        num_preemptions=1,
        num_prefix_queries=100,
        num_prefix_hits=40,
        prefix_index=inference_pb2.PrefixIndexLoad(
            num_published_blocks=9, num_dropped_blocks=7, breaker_state=inference_pb2.BREAKER_STATE_OPEN
        ),
    )
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!")
    await gateway.http.post("/v1/chat/completions", json=CHAT)
    await gateway.http.post("/v1/chat/completions", json={})
    found = await samples(gateway)
    expected = {
        ("vllm:num_requests_running", ()): 2,
        ("vllm:num_requests_waiting", ()): 3,
        ("vllm:kv_cache_usage_perc", ()): 0.25,
        ("vllm:prefix_cache_queries_total", ()): 100,
        ("vllm:prefix_cache_hits_total", ()): 40,
        ("vllm:num_preemptions_total", ()): 1,
        ("vllm:prompt_tokens_total", ()): len("XuserNHiXNXassistantN"),
        ("vllm:generation_tokens_total", ()): 6,
        ("vllm:request_success_total", ("stop",)): 1,
        ("vllm:time_to_first_token_seconds_count", ()): 1,
        ("vllm:inter_token_latency_seconds_count", ()): 5,
        ("vllm:request_time_per_output_token_seconds_sum", ()): 0.4,
        ("vllm:e2e_request_latency_seconds_count", ()): 1,
        ("vllm:request_queue_time_seconds_sum", ()): 0.25,
        ("vllm:request_prefill_time_seconds_sum", ()): 0.5,
        ("vllm:request_decode_time_seconds_sum", ()): 2.0,
        ("vllm:request_prompt_tokens_count", ()): 1,
        ("vllm:request_generation_tokens_sum", ()): 6,
        ("pagoda_prefix_index_published_blocks_total", ()): 9,
        ("pagoda_prefix_index_dropped_blocks_total", ()): 7,
        ("pagoda_prefix_index_up", ()): 0,
        ("pagoda_queue_length", ("alice",)): 2,
        ("pagoda_queue_oldest_seconds", ("alice",)): 4.5,
        ("pagoda_queue_length", ("bob",)): 1,
        ("pagoda_queue_next_position", ("bob",)): 1,
        ("pagoda_queue_drain_rate", ()): 2.0,
        ("pagoda_queue_wait_seconds", ()): 1.5,
        ("pagoda_pages", ("free", "w1")): 50,
        ("pagoda_pages", ("cached", "w1")): 25,
        ("pagoda_pages", ("used", "w1")): 25,
        ("pagoda_worker_sequences", ("w1",)): 2,
        ("pagoda_worker_memory_bytes", ("weights", "w1")): 400,
        ("pagoda_worker_memory_bytes", ("pages", "w1")): 300,
        ("pagoda_steps_total", ()): 12,
        ("pagoda_step_tokens_total", ()): 150,
        ("http_requests_total", ("/v1/chat/completions", "POST", "2xx")): 1,
        ("http_requests_total", ("/v1/chat/completions", "POST", "4xx")): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    queue = (await gateway.http.get("/queue")).json()
    assert {name: queue[name] for name in ("num_waiting", "num_running", "wait_s")} == {
        "num_waiting": 3,
        "num_running": 2,
        "wait_s": 1.5,
    }
    assert [(row["tenant"], row["next_position"]) for row in queue["queues"]] == [("bob", 1), ("alice", 2)]


async def test_samples_that_clients_leave_are_counted_as_aborted(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(hold_before=1)
    request = asyncio.create_task(gateway.http.post("/v1/chat/completions", json=CHAT | {"n": 2}))
    await gateway.scheduler.held.get()
    request.cancel()
    await gateway.scheduler.cancelled.get()
    await gateway.app.state.gateway.drain.wait_until_idle()
    assert (await samples(gateway))["vllm:request_success_total", ("abort",)] == 2
    await asyncio.gather(request, return_exceptions=True)


async def test_metrics_without_a_scheduler(gateway: RunningGateway) -> None:
    await gateway.scheduler.server.stop(0)
    response = await gateway.http.get("/metrics")
    assert response.status_code == 200
    assert "vllm:time_to_first_token_seconds" in response.text
    assert "vllm:num_requests_running" not in response.text


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/v1/nothing", 404), ("/v1/chat/completions", 405)])
async def test_request_ids(gateway: RunningGateway, path: str, status: int) -> None:
    echoed = await gateway.http.get(path, headers={"x-request-id": "my-id_1.2"})
    assert (echoed.status_code, echoed.headers["x-request-id"]) == (status, "my-id_1.2")
    for insane in ("", "a b", "x" * 200):
        made = await gateway.http.get(path, headers={"x-request-id": insane})
        assert len(made.headers["x-request-id"]) == 32


async def test_one_log_line_for_each_request(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="gateway.answers.request_record")
    gateway.scheduler.answer = lambda *_: Answer(text="Hello!", num_cached_tokens=4)
    await gateway.http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "abc"})
    (record,) = [record for record in caplog.records if record.name == "gateway.answers.request_record"]
    fields = vars(record)
    assert fields["message"] == "request finished"
    assert (fields["request_id"], fields["model"], fields["worker"]) == ("abc", "tiny", "fake-worker")
    assert (fields["num_cached_tokens"], fields["num_output_tokens"], fields["finish_reason"]) == (4, 6, "stop")
    assert fields["num_preemptions"] == NUM_PREEMPTIONS
    assert fields["ttft_s"] >= 0
    assert (fields["constraint"], fields["grammar"], fields["num_calls"]) == ("none", "", 0)
    assert "Hello" not in str(fields)


CALL = '<tool_call>{"name": "secret", "arguments": {}}</tool_call>'
TOOL = {"type": "function", "function": {"name": "secret", "parameters": {}}}


@pytest.mark.parametrize(
    ("asked", "text", "constraint", "num_calls"),
    [
        ({"response_format": {"type": "json_object"}}, '{"secret": 1}', "answer", 0),
        ({"tools": [TOOL]}, CALL, "calls", 1),
        ({"tools": [TOOL], "tool_choice": "required", "n": 2}, CALL, "answer", 2),
        ({"tools": [TOOL], "tool_choice": "none"}, CALL, "none", 0),
    ],
    ids=["format", "auto", "required", "none"],
)
async def test_constraints_and_calls_are_logged_and_counted_without_their_texts(
    gateway: RunningGateway,
    caplog: pytest.LogCaptureFixture,
    asked: dict[str, Any],
    text: str,
    constraint: str,
    num_calls: int,
) -> None:
    caplog.set_level("INFO", logger="gateway.answers.request_record")
    gateway.scheduler.answer = lambda *_: Answer(text=text)
    answered = await gateway.http.post("/v1/chat/completions", json=CHAT | asked)
    assert answered.status_code == 200, answered.text
    (record,) = [record for record in caplog.records if record.name == "gateway.answers.request_record"]
    assert (vars(record)["constraint"], vars(record)["num_calls"]) == (constraint, num_calls)
    assert bool(vars(record)["grammar"]) == (constraint != "none")
    assert "secret" not in str(vars(record))
    found = await samples(gateway)
    assert found["pagoda_requests_by_constraint_total", (constraint,)] == 1
    assert found["pagoda_tool_calls_total", ()] == num_calls


async def test_key(short_path: Path) -> None:
    async with running_gateway(short_path, api_key="s3cret") as gateway:
        for path in ("/health", "/ready"):
            assert (await gateway.http.get(path)).status_code in (200, 503)
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "s3cret"},
            {"authorization": "Basic s3cret"},
        ):
            openai = await gateway.http.get("/v1/models", headers=headers)
            assert (openai.status_code, openai.headers["www-authenticate"]) == (401, "Bearer")
            assert openai.json()["error"]["code"] == "invalid_api_key"
            ollama = await gateway.http.post("/api/chat", headers=headers, json={})
            assert ollama.status_code == 401
            assert isinstance(ollama.json()["error"], str)
            assert (await gateway.http.get("/metrics", headers=headers)).status_code == 401
        allowed = await gateway.http.get("/v1/models", headers={"authorization": "Bearer s3cret"})
        assert allowed.status_code == 200
