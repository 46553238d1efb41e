"""Tests of workers and clients that send nonsense: each gets an error, no other notices, and no memory is allocated for it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2, worker_pb2, worker_pb2_grpc
from scheduler.loop import SchedulerLoop
from tests.fakes.engine import continuation
from tests.fakes.log_records import own_records
from tests.fakes.messages import messages
from tests.fakes.scheduler_process import instant_worker, scheduler

PROMPT = [72, 101, 108]
# Statuses that a client or worker which sends nonsense may get. UNKNOWN and INTERNAL would be bugs of the scheduler.
ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OK,
}
# The error of grpc's own client for a message that it could not send any more.
NOT_SENT = (grpc.StatusCode.INTERNAL, "Internal error from Core")
MiB = 1024 * 1024


def good_hello(**fields: Any) -> worker_pb2.Hello:
    model = worker_pb2.LoadedModel(
        name="other",
        digest="d",
        page_size=16,
        num_pages=64,
        max_model_len=256,
        max_step_tokens=64,
        max_step_sequences=8,
        vocab_size=512,
        numerics_id="n",
    )
    return worker_pb2.Hello(worker_id="stranger", instance="i", epoch=1, device="d", model=model, **fields)


def greedy(max_tokens: int = 8, **fields: Any) -> inference_pb2.GenerateRequest:
    sampling = types_pb2.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    usual: dict[str, Any] = {"request_id": "r", "model": "fake", "prompt_token_ids": PROMPT, "sampling": sampling}
    return inference_pb2.GenerateRequest(**(usual | fields))


@asynccontextmanager
async def system(directory: Path) -> AsyncIterator[tuple[grpc.aio.Channel, SchedulerLoop]]:
    """Run a scheduler with one good worker. No worker is lost on a busy machine, and strangers have a short grace period."""
    async with (
        scheduler(directory, silence_s=60, worker_grace_s=0.05) as (address, loop),
        instant_worker(address, max_model_len=5000, num_pages=400),
        open_channel(address) as channel,
    ):
        yield channel, loop


async def attach(channel: grpc.aio.Channel, said: Sequence[worker_pb2.AttachRequest]) -> tuple[grpc.StatusCode, str]:
    stream: Any = worker_pb2_grpc.WorkerServiceStub(channel).Attach(timeout=60)
    return await say_all(stream, said)


async def say_all(stream: Any, said: Sequence[Any]) -> tuple[grpc.StatusCode, str]:
    """Write all messages, wait for the stream's end and return its status."""
    try:
        for message in said:
            await stream.write(message)
        await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    status = await stream.code(), await stream.details() or ""
    stream.cancel()  # grpc's client may have ended the stream without telling the server
    return status


async def until_alone(loop: SchedulerLoop) -> None:
    """Wait until all strangers are gone."""
    while len(loop.workers) > 1 or loop.loading.stores.unloaded:  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.001)


def check_log(caplog: pytest.LogCaptureFixture) -> None:
    assert not [record for record in own_records(caplog) if record.exc_info or record.levelno >= logging.CRITICAL]


ATTACH_REQUESTS = messages(worker_pb2.AttachRequest)
LATER = st.lists(ATTACH_REQUESTS, max_size=3)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def examples(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """Return generated examples, for use in one event loop with one system; hypothesis starts a new loop for each example."""
    drawn: list[Any] = []

    @settings(MANY, max_examples=number, database=None)
    @given(strategy)
    def draw(example: Any) -> None:
        drawn.append(example)

    draw()
    return drawn


async def test_no_worker_disturbs_others_by_what_it_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stream keeps its tokens while strange workers attach, whether their first message is right or not."""
    rss_before = psutil.Process().memory_info().rss
    async with system(tmp_path) as (channel, loop):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        calm = aiter(stub.Generate(greedy(4000)))
        events = [await anext(calm) for _ in range(3)]
        hello = worker_pb2.AttachRequest(hello=good_hello())
        hellos = messages(worker_pb2.Hello).map(lambda strange: [worker_pb2.AttachRequest(hello=strange)])
        for said in (
            *examples(LATER, 50),
            *examples(hellos, 100),
            *examples(LATER.map(lambda later: [hello, *later]), 100),
        ):
            code, details = await attach(channel, said)
            assert code in ERRORS or (code, details) == NOT_SENT, (code, details, said)
            await until_alone(loop)
        events += [event async for event in calm]
    assert [token for event in events for token in event.tokens.token_ids] == continuation(PROMPT, 4000)
    check_log(caplog)
    assert psutil.Process().memory_info().rss - rss_before < 256 * MiB


async def test_no_client_disturbs_others_by_what_it_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    requests = messages(inference_pb2.GenerateRequest)
    nearly_right = requests.map(lambda strange: _merged(greedy(), strange))
    commands = st.lists(messages(inference_pb2.SessionRequest), max_size=4)
    opened = st.lists(nearly_right, max_size=3).map(
        lambda asked: [inference_pb2.SessionRequest(open=each) for each in asked]
    )
    async with system(tmp_path) as (channel, loop):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        calm = aiter(stub.Generate(greedy(4000)))
        events = [await anext(calm) for _ in range(3)]
        for said in (*examples(commands, 80), *examples(opened, 80)):
            code, details = await say_all(stub.Session(timeout=60), said)
            assert code in ERRORS or (code, details) == NOT_SENT, (code, details, said)
        for asked in examples(st.one_of(requests, nearly_right), 100):
            asked.timeout_ms = min(asked.timeout_ms or 50, 50)
            code, details = await _status(stub.Generate(asked, timeout=60))
            assert code in ERRORS, (code, details, asked)
        events += [event async for event in calm]
        assert not loop.waiting
    assert [token for event in events for token in event.tokens.token_ids] == continuation(PROMPT, 4000)
    check_log(caplog)


def _merged(good: inference_pb2.GenerateRequest, strange: inference_pb2.GenerateRequest) -> Any:
    good.MergeFrom(strange)
    return good


async def _status(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_pages", 60_000_000),
        ("num_pages", 2**32 - 1),
        ("num_pages", 2**24 + 1),
        ("num_pages", 0),
        ("page_size", 2**31),
        ("max_model_len", 2**32 - 1),
        ("max_model_len", 0),
        ("max_step_tokens", 0),
        ("max_step_sequences", 2**32 - 1),
        ("vocab_size", 2**32 - 1),
        ("max_new_tokens", 65),
    ],
)
async def test_numbers_of_a_hello_have_bounds_which_are_told(tmp_path: Path, field: str, value: int) -> None:
    strange = good_hello()
    setattr(strange.model, field, value)
    async with scheduler(tmp_path) as (address, loop), open_channel(address) as channel:
        code, details = await attach(channel, [worker_pb2.AttachRequest(hello=strange)])
        assert not loop.workers
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{field} {value}, which must be between 1 and" in details


async def test_the_largest_pool_that_is_allowed_costs_nothing(tmp_path: Path) -> None:
    largest = good_hello()
    largest.model.num_pages = 2**24
    async with scheduler(tmp_path) as (address, loop), open_channel(address) as channel:
        rss_before = psutil.Process().memory_info().rss
        stream: Any = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
        await stream.write(worker_pb2.AttachRequest(hello=largest))
        assert (await stream.read()).HasField("attached")
        assert loop.workers["stranger"].pool.num_free == 2**24
        assert psutil.Process().memory_info().rss - rss_before < 32 * MiB
        stream.cancel()


async def test_a_prompt_is_refused_for_its_length_before_it_is_copied(tmp_path: Path) -> None:
    async with system(tmp_path) as (channel, _):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        long = greedy(prompt_token_ids=[1] * 5_000_000)
        code, details = await _status(stub.Generate(long, timeout=60))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "the prompt has 5000000 tokens, but the model's context window is 5000 tokens" in details
        too_large = greedy(prompt_token_ids=[1_000_000] * 6_000_000)
        code, details = await _status(stub.Generate(too_large, timeout=60))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
