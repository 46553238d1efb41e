"""Tests of tracing with real processes and a real OTLP receiver."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.environment_variables import OTEL_BSP_SCHEDULE_DELAY

from pagoda.rpc.grpc_channel import open_channel
from pagoda.telemetry.open_tracer import open_tracer
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2
from scheduler.__main__ import running_scheduler
from scheduler.settings import SchedulerSettings
from tests.deploy.installed import GUARD
from tests.e2e.system import until
from tests.fakes.native_code import give_native_code
from tests.fakes.otlp_receiver import OTLPReceiver, ReceivedSpan, otlp_receiver
from tests.fakes.scheduler_process import instant_worker
from tests.fakes.tiny_model import write_tiny_gguf

TRACE_ID, CLIENT_SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-01"
NOT_SAMPLED = f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-00"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0.5, "ignore_eos": True}
NOBODY = "http://127.0.0.1:9"
SDK = "opentelemetry.sdk opentelemetry.exporter"


@asynccontextmanager
async def tier(name: str, home: Path, environment: dict[str, str], *flags: str) -> AsyncIterator[Process]:
    address = f"unix:{home}/s.sock"
    where = ("--listen", address) if name == "scheduler" else ("--scheduler", address)
    command = (sys.executable, "-P", "-m", name, "--home", str(home), *where, *flags)
    child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, stderr=DEVNULL)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@asynccontextmanager
async def system(home: Path, **environment: str) -> AsyncIterator[tuple[httpx.AsyncClient, list[Process]]]:
    """Run one process of each tier, and yield a client of the gateway once it is ready, and the processes."""
    model = str(write_tiny_gguf(give_native_code(home) / "tiny.gguf"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        processes = [
            await start(
                tier("gateway", home, environment, "--model", model, "--port", str(port), "--ollama-port", "0")
            ),
            await start(tier("worker", home, environment, "--model", model, "--kv-memory", "1MiB", "--threads", "1")),
            await start(tier("scheduler", home, environment)),
        ]
        http = await start(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200, trust_env=False))
        await asyncio.to_thread(until, "/ready answers 200", lambda: is_ready(port))
        yield http, processes


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=200, trust_env=False).is_success
    except httpx.TransportError:
        return False


def is_whole(receiver: OTLPReceiver) -> bool:
    return bool(receiver.named("POST /v1/chat/completions") and receiver.named("sequence") and num_steps(receiver) == 4)


def num_steps(receiver: OTLPReceiver) -> int:
    return len(receiver.named("step"))


async def test_one_request_is_one_connected_trace_and_without_the_receiver_all_is_as_ever(short_path: Path) -> None:
    async with AsyncExitStack() as stack, AsyncExitStack() as receiving:
        receiver = await receiving.enter_async_context(otlp_receiver())
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, OTEL_BSP_SCHEDULE_DELAY: "50"}
        http, processes = await stack.enter_async_context(system(short_path, **environment))
        answer = await chat(http)
        await receiver.until(is_whole)
        await receiving.aclose()
        for _ in range(3):
            await chat(http)
        for process in processes:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}
    request, sequence = receiver.one("POST /v1/chat/completions"), receiver.one("sequence")
    assert request.parent_id == CLIENT_SPAN_ID
    assert sequence.parent_id == request.span_id
    within = receiver.named("step") + [receiver.one(stage) for stage in ("queue", "prefill", "decode")]
    assert {span.parent_id for span in within} == {sequence.span_id}
    assert {span.service for span in receiver.named("step")} == {"pagoda-worker"}
    assert (request.service, sequence.service) == ("pagoda-gateway", "pagoda-scheduler")
    check_attributes(request, sequence, receiver.named("step"), answer.json()["usage"])


async def chat(http: httpx.AsyncClient) -> httpx.Response:
    answer = await http.post("/v1/chat/completions", json=CHAT, headers={"traceparent": SAMPLED})
    assert answer.is_success, answer.text
    return answer


def check_attributes(
    request: ReceivedSpan, sequence: ReceivedSpan, steps: list[ReceivedSpan], usage: dict[str, int]
) -> None:
    expected = {
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert expected.items() <= request.attributes.items()
    parts = ("queue", "model_prefill", "model_decode")
    in_parts = sum(request.attributes[f"gen_ai.latency.time_in_{part}"] for part in parts)
    assert 0 < in_parts <= request.attributes["gen_ai.latency.e2e"]
    assert "first token" in request.events
    assert sequence.attributes["pagoda.finish_reason"] == "length"
    assert sequence.attributes["pagoda.num_cached_tokens"] == 0
    # One step has the prompt, and each later one a token.
    assert [step.attributes["pagoda.num_tokens"] for step in steps] == [usage["prompt_tokens"], 1, 1, 1]
    assert all(step.attributes["pagoda.step_us"] > 0 for step in steps)


async def test_what_the_client_does_not_sample_is_not_traced(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL_BSP_SCHEDULE_DELAY, "50")
    async with otlp_receiver() as receiver:
        async with traced_scheduler(short_path, receiver) as stub:
            await generate(stub, traceparent=NOT_SAMPLED)
            await generate(stub)
            await receiver.until(lambda receiver: len(receiver.named("sequence")) == 1)
    assert TRACE_ID not in {span.trace_id for span in receiver.spans}


async def test_the_inner_door_takes_the_trace_from_the_calls_metadata(short_path: Path) -> None:
    async with otlp_receiver() as receiver:
        async with traced_scheduler(short_path, receiver) as stub:
            await generate(stub, metadata=(("traceparent", SAMPLED),))
        await receiver.until(lambda receiver: bool(receiver.named("sequence")))
    assert (receiver.one("sequence").trace_id, receiver.one("sequence").parent_id) == (TRACE_ID, CLIENT_SPAN_ID)


@asynccontextmanager
async def traced_scheduler(
    directory: Path, receiver: OTLPReceiver
) -> "AsyncIterator[inference_pb2_grpc.InferenceServiceAsyncStub]":
    """Run a traced scheduler in this process, with an instant worker that does not trace, and yield a client's stub."""
    address = f"unix:{directory}/scheduler.sock"
    settings = SchedulerSettings(listen=address, home=directory)
    async with AsyncExitStack() as stack:
        tracer = TracerInThread(receiver.endpoint)
        stack.push_async_callback(tracer.close)
        await stack.enter_async_context(running_scheduler(settings, tracer.tracer))
        await stack.enter_async_context(instant_worker(address))
        channel = await stack.enter_async_context(open_channel(address))
        yield inference_pb2_grpc.InferenceServiceStub(channel)


class TracerInThread:
    """A tracer that is closed in a thread, because the receiver answers in the event loop."""

    def __init__(self, endpoint: str) -> None:
        self._opened = open_tracer(endpoint, "pagoda-scheduler")
        self.tracer = self._opened.__enter__()

    async def close(self) -> None:
        await asyncio.to_thread(self._opened.__exit__, None, None, None)


async def generate(
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub",
    traceparent: str = "",
    metadata: tuple[tuple[str, str], ...] = (),
) -> None:
    request = inference_pb2.GenerateRequest(
        prompt_token_ids=(72, 105),
        sampling=types_pb2.SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True),
        traceparent=traceparent,
    )
    assert [event.WhichOneof("event") async for event in stub.Generate(request, metadata=metadata)][-1] == "finished"


@pytest.mark.parametrize("forbidden", ["", SDK], ids=["with the SDK installed", "without the SDK"])
@pytest.mark.parametrize("name", ["gateway", "scheduler", "worker"])
def test_tracing_is_off_by_default_and_its_sdk_not_loaded(name: str, forbidden: str) -> None:
    code = (
        f"import sys, {name}.__main__; from {name}.settings import *\n"
        "from opentelemetry.trace import NoOpTracer; from pagoda.telemetry.open_tracer import open_tracer\n"
        f"settings = {name.capitalize()}Settings.load([])\n"
        "with open_tracer(settings.otlp_endpoint, 'pagoda') as tracer: assert type(tracer) is NoOpTracer\n"
        "loaded = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([module for module in loaded if module in sys.modules])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment |= {"PYTHONPATH": str(GUARD), "FORBIDDEN_MODULES": forbidden}
    checked = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert checked.stdout.strip() == "[]", checked.stderr


def test_without_the_sdk_the_error_names_the_extra(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(GUARD), "FORBIDDEN_MODULES": SDK}
    command = [sys.executable, "-m", "scheduler", "--home", str(tmp_path), "--otlp-endpoint", NOBODY]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert refused.returncode == 2
    assert "--otlp-endpoint" in refused.stderr and "pip install 'pagoda-llm[tracing]'" in refused.stderr


@pytest.mark.parametrize("endpoint", ["localhost:4317", "ftp://localhost:4317", "http://", "http://x:port"])
def test_a_wrong_endpoint_is_refused_with_an_example(endpoint: str) -> None:
    with pytest.raises(ValueError, match="such as http://"):
        SchedulerSettings(otlp_endpoint=endpoint)
