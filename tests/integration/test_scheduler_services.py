"""Tests of the scheduler's services over real sockets, with the real worker link and an instant engine."""

import asyncio
import threading
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from pagoda.rpc.grpc_channel import open_channel
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.step_result import StepResult
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2, worker_pb2, worker_pb2_grpc
from scheduler.__main__ import drain
from scheduler.loop import SchedulerLoop
from scheduler.rpc.inference_service import SERVICE_NAME
from scheduler.rpc.stream_link import StreamLink
from scheduler.steps.step_plan import StepPlan
from tests.fakes.engine import FakeEngine, continuation
from tests.fakes.scheduler_process import instant_worker, scheduler, scheduler_and_worker, wait_until_ready
from tests.fakes.worker import FakeStore, fake_worker_link
from worker.errors import StartError
from worker.steps.engine import BegunStep
from worker.steps.engine_thread import Loaded
from worker.steps.step import Step


def generate_request(
    request_id: str = "r", max_tokens: int = 8, num_samples: int = 1, prompt: tuple[int, ...] = (72, 101, 108)
) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(
        request_id=request_id,
        prompt_token_ids=prompt,
        sampling=types_pb2.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
        num_samples=num_samples,
    )


async def collect(
    call: AsyncIterable[inference_pb2.GenerateResponse],
) -> tuple[list[int], inference_pb2.Finished]:
    token_ids: list[int] = []
    async for event in call:
        if event.HasField("tokens"):
            assert event.tokens.sequence_number == len(token_ids)
            token_ids += event.tokens.token_ids
        if event.HasField("finished"):
            return token_ids, event.finished
    raise AssertionError("the stream ended without Finished")


async def test_generate_streams_started_tokens_finished(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(generate_request())
        kinds = [event.WhichOneof("event") async for event in call]
    assert kinds == ["started", *["tokens"] * 8, "finished"]


async def test_both_doors_give_the_same_tokens(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        token_ids, _ = await collect(stub.Generate(generate_request()))
        session: Any = stub.Session()
        await session.write(inference_pb2.SessionRequest(open=generate_request()))
        seen: list[int] = []
        finished = False
        while not finished:
            message = await session.read()
            for event in message.events:
                seen += event.token_batch.token_ids
                finished |= event.HasField("finished")
        session.cancel()
    assert seen == token_ids


async def test_one_session_message_carries_the_step_of_all_its_requests(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        session: Any = inference_pb2_grpc.InferenceServiceStub(channel).Session()
        for number in range(8):
            await session.write(inference_pb2.SessionRequest(open=generate_request(str(number), max_tokens=50)))
        num_finished, largest = 0, 0
        while num_finished < 8:
            message = await session.read()
            largest = max(largest, *(len(event.token_batch.token_ids) for event in message.events))
            num_finished += sum(event.HasField("finished") for event in message.events)
        session.cancel()
    assert largest >= 8


async def test_workers_go_on_by_themselves_until_somebody_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[StepPlan] = []
    send_step = StreamLink.send_step

    def recorded(link: StreamLink, plan: StepPlan) -> None:
        plans.append(plan)
        send_step(link, plan)

    monkeypatch.setattr(StreamLink, "send_step", recorded)
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        first, _ = await collect(stub.Generate(generate_request("alone", max_tokens=400)))
        assert len(plans) < 60
        long = aiter(stub.Generate(generate_request("long", prompt=(9, 8, 7), max_tokens=400)))
        begun = [await anext(long) for _ in range(20)]
        for number in range(5):
            again, _ = await collect(stub.Generate(generate_request(str(number), max_tokens=7 * number + 1)))
            assert again == first[: len(again)]
        events = [*begun, *[event async for event in long]]
    assert [token for event in events for token in event.tokens.token_ids] == continuation([9, 8, 7], 400)


async def test_a_refused_request_does_not_disturb_its_session(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        session: Any = inference_pb2_grpc.InferenceServiceStub(channel).Session()
        await session.write(inference_pb2.SessionRequest(open=generate_request("bad", prompt=())))
        await session.write(inference_pb2.SessionRequest(open=generate_request("good")))
        errors: list[inference_pb2.RequestError] = []
        finished: list[inference_pb2.Finished] = []
        while not finished:
            message = await session.read()
            errors += message.errors
            finished += [event.finished for event in message.events if event.HasField("finished")]
        session.cancel()
    assert [(error.request_id, error.code) for error in errors] == [("bad", code_pb2.INVALID_ARGUMENT)]
    assert finished[0].request_id == "good"


async def test_finish_ends_a_sample_normally_and_cancel_aborts(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        session: Any = inference_pb2_grpc.InferenceServiceStub(channel).Session()
        await session.write(inference_pb2.SessionRequest(open=generate_request("r", max_tokens=2000, num_samples=2)))
        finished: dict[int, inference_pb2.Finished] = {}
        has_tokens: set[int] = set()
        while len(has_tokens) < 2:
            for event in (await session.read()).events:
                has_tokens.update(event.token_batch.sample_indexes)
        stop = inference_pb2.Finish(request_id="r", sample_index=0, num_tokens=1)
        await session.write(inference_pb2.SessionRequest(finish=stop))
        await session.write(inference_pb2.SessionRequest(cancel=inference_pb2.Cancel(request_id="r")))
        while len(finished) < 2:
            for event in (await session.read()).events:
                if event.HasField("finished"):
                    finished[event.finished.sample_index] = event.finished
        session.cancel()
    assert finished[0].reason == types_pb2.FINISH_REASON_STOP
    assert finished[0].usage.num_output_tokens == 1
    assert finished[1].reason == types_pb2.FINISH_REASON_ABORT


async def test_what_outlasts_the_grace_of_a_drain_is_left_to_others(tmp_path: Path) -> None:
    async with open_channel(f"unix:{tmp_path}/scheduler.sock") as channel:
        async with scheduler_and_worker(tmp_path, max_model_len=100_000, num_pages=8000) as (_, loop):
            session: Any = inference_pb2_grpc.InferenceServiceStub(channel).Session()
            await session.write(inference_pb2.SessionRequest(open=generate_request("long", max_tokens=90_000)))
            await session.read()
            await drain(loop, grace_s=0)
            await session.write(inference_pb2.SessionRequest(open=generate_request("late")))
            errors: list[inference_pb2.RequestError] = []
            while not errors:
                errors += (await session.read()).errors
        status = await until_end(session)
    assert [(error.request_id, error.code, error.is_shutting_down) for error in errors] == [
        ("late", code_pb2.UNAVAILABLE, True)
    ]
    assert status is grpc.StatusCode.UNAVAILABLE


async def until_end(session: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await session.read()
    return caught.value.code()


@pytest.mark.parametrize("door", ["generate", "session"])
async def test_a_client_that_vanishes_frees_its_pages(tmp_path: Path, door: str) -> None:
    async with scheduler_and_worker(tmp_path, max_model_len=100_000, num_pages=8000) as (address, loop):
        async with open_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            asked = generate_request(max_tokens=90_000)
            if door == "generate":
                call = stub.Generate(asked)
                await anext(aiter(call))
            else:
                session: Any = stub.Session()
                await session.write(inference_pb2.SessionRequest(open=asked))
                await session.read()
            assert loop.num_running == 1
            idle = asyncio.Event()
            loop.requests.start_draining(idle.set)
        await asyncio.wait_for(idle.wait(), 10)
        assert all(worker.pool.num_used == 0 for worker in loop.workers.values())


async def test_errors_are_statuses_with_details(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unavailable:
            await collect(stub.Generate(generate_request()))
        async with instant_worker(address):
            with pytest.raises(grpc.aio.AioRpcError) as invalid:
                await collect(stub.Generate(generate_request(prompt=(10**6,))))
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await collect(
                    stub.Generate(
                        inference_pb2.GenerateRequest(
                            model="other", prompt_token_ids=[1], sampling=generate_request().sampling
                        )
                    )
                )
            with pytest.raises(grpc.aio.AioRpcError) as reserved:
                await collect(stub.Generate(inference_pb2.GenerateRequest(adapter="lora", prompt_token_ids=[1])))
    assert unavailable.value.code() == grpc.StatusCode.UNAVAILABLE
    status = rpc_status.from_call(unavailable.value)
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry) and retry.retry_delay.ToSeconds() >= 1
    assert invalid.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "token id 1000000 is outside the vocabulary" in (invalid.value.details() or "")
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    assert reserved.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_deadline_of_the_call_is_honoured(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path, max_model_len=100_000, num_pages=8000) as (address, loop):
        async with open_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            asked = generate_request(max_tokens=90_000)
            asked.timeout_ms = 200
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await collect(stub.Generate(asked))
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert loop.num_running == 0


async def test_health_follows_the_workers_and_is_pushed(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        live = await stub.Check(health_pb2.HealthCheckRequest(service=""))
        watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME)))
        seen = [(await anext(watch)).status]
        async with instant_worker(address):
            seen.append((await anext(watch)).status)
        seen.append((await anext(watch)).status)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert live.status == serving
    assert seen == [not_serving, serving, not_serving]


async def test_a_stream_goes_on_when_its_worker_is_lost(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        async with instant_worker(address, max_model_len=5000, num_pages=400):
            undisturbed, _ = await collect(stub.Generate(generate_request("calm", max_tokens=3000)))
            call = stub.Generate(generate_request("hit", max_tokens=3000))
            events = [await anext(aiter(call)) for _ in range(5)]
        async with instant_worker(address, worker_id="other", max_model_len=5000, num_pages=400):
            events += [event async for event in call]
    tokens = [event.tokens for event in events if event.HasField("tokens")]
    assert [token for event in tokens for token in event.token_ids] == undisturbed
    assert [event.moved.to_worker_id for event in events if event.HasField("moved")] == ["other"]


async def attached(loop: SchedulerLoop, num_workers: int) -> None:
    while True:
        if len(loop.workers) == num_workers:
            return
        await asyncio.sleep(0.01)


async def test_a_stream_moves_when_its_worker_leaves(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as (address, loop), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        leaving = fake_worker_link(address, worker_id="first", max_model_len=5000, num_pages=400)
        running = asyncio.create_task(leaving.run())
        await wait_until_ready(address)
        call = stub.Generate(generate_request(max_tokens=4500))
        events = [await anext(aiter(call)) for _ in range(5)]
        async with instant_worker(address, worker_id="second", max_model_len=5000, num_pages=400):
            await attached(loop, num_workers=2)
            leaving.leave(grace_s=3600)
            await running
            events += [event async for event in call]
    tokens = [token for event in events for token in event.tokens.token_ids]
    assert tokens == continuation([72, 101, 108], 4500)
    assert [event.moved.to_worker_id for event in events if event.HasField("moved")] == ["second"]


async def test_load_and_models_describe_the_workers(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path, num_pages=64) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await collect(stub.Generate(generate_request(max_tokens=40)))
        models = await stub.ListModels(inference_pb2.ListModelsRequest())
        load = await stub.GetLoad(inference_pb2.GetLoadRequest())
    assert [(model.name, model.num_workers) for model in models.models] == [("fake", 1)]
    (worker,) = load.workers
    assert worker.num_pages_free + worker.num_pages_cached + worker.num_pages_used == 64
    assert worker.num_pages_cached == 2 and worker.num_pages_used == 0
    assert load.num_steps >= 40 and load.num_step_tokens == 3 + 39


def held_blocks(*blocks: worker_pb2.PageBlock) -> worker_pb2.AttachRequest:
    return worker_pb2.AttachRequest(held_blocks=worker_pb2.HeldBlocks(blocks=blocks))


async def hello_stream(
    channel: grpc.aio.Channel,
    num_held_blocks_messages: int = 0,
    epoch: int = 1,
    has_model: bool = True,
    says_hello: bool = True,
) -> Any:
    """Attach a stream without a worker link and return it. Its type is Any: the stubs' type lacks `read`."""
    stream = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
    model = worker_pb2.LoadedModel(
        name="m",
        digest="0",
        page_size=16,
        num_pages=8,
        max_model_len=64,
        max_step_tokens=64,
        max_step_sequences=4,
        vocab_size=300,
    )
    hello = worker_pb2.Hello(
        worker_id="w",
        epoch=epoch,
        model=model if has_model else None,
        device="cpu",
        num_held_blocks_messages=num_held_blocks_messages,
    )
    if says_hello:
        await stream.write(worker_pb2.AttachRequest(hello=hello))
    return stream


async def test_a_worker_that_falls_silent_is_lost(tmp_path: Path) -> None:
    async with scheduler(tmp_path, silence_s=0.3) as (address, _), open_channel(address) as channel:
        stream = await hello_stream(channel)
        assert (await stream.read()).attached.session_id
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def attached_again(loop: SchedulerLoop, worker_id: str) -> None:
    while True:
        if worker_id in loop.workers:
            return
        await asyncio.sleep(0.01)


class HangingEngine(FakeEngine):
    """An engine whose step 30 ends when the test sets `released`."""

    def __init__(self) -> None:
        super().__init__(num_pages=256)
        self.released = threading.Event()

    def finish_step(self, begun: BegunStep) -> StepResult:
        if begun.step.step_id == 30:
            self.released.wait()
        return super().finish_step(begun)


async def test_a_worker_that_lives_but_whose_engine_hangs_is_lost_and_nothing_of_it_counts(tmp_path: Path) -> None:
    engine = HangingEngine()
    times = {"heartbeat_s": 0.2, "silence_s": 1.0}
    async with scheduler(tmp_path, **times) as (address, loop), open_channel(address) as channel:
        async with instant_worker(address, engine=engine, worker_id="hangs"):
            call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(generate_request(max_tokens=100))
            events = [await anext(aiter(call))]
            async with instant_worker(address, worker_id="other"):
                events += [event async for event in call]
                assert list(loop.workers) == ["other"]
                engine.released.set()
                await attached_again(loop, "hangs")
    tokens = [event.tokens for event in events if event.HasField("tokens")]
    assert [event.sequence_number for event in tokens] == list(range(100))
    assert [token for event in tokens for token in event.token_ids] == continuation([72, 101, 108], 100)
    assert [event.moved.to_worker_id for event in events if event.HasField("moved")] == ["other"]


class OutOfMemoryEngine(FakeEngine):
    """An engine that raises MemoryError in steps of a sequence with a certain token."""

    deadly_token_id = 255

    def __init__(self) -> None:
        super().__init__(num_pages=256)
        self.deaths: list[int] = []
        """Number of sequences in each failed step."""
        self._deadly: set[int] = set()

    def begin_step(self, step: Step) -> BegunStep:
        self._deadly |= {new.sequence_id for new in step.new_sequences if self.deadly_token_id in new.token_ids}
        if any(each.sequence_id in self._deadly for each in step.scheduled):
            self.deaths.append(len(step.scheduled))
            raise MemoryError
        return super().begin_step(step)


async def test_a_request_that_takes_all_memory_fails_alone_and_the_worker_comes_back(tmp_path: Path) -> None:
    engine = OutOfMemoryEngine()
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        async with instant_worker(address, engine=engine):
            prompts = [(72, number) for number in range(4)]
            calls = [aiter(stub.Generate(generate_request(str(n), 400, prompt=p))) for n, p in enumerate(prompts)]
            for call in calls:
                assert (await anext(call)).HasField("started")
            with pytest.raises(grpc.aio.AioRpcError, match="3 workers in a row were lost while they comp") as caught:
                await collect(stub.Generate(generate_request("deadly", prompt=(engine.deadly_token_id,))))
            answers = [await collect(call) for call in calls]
            await wait_until_ready(address)
            again, _ = await collect(stub.Generate(generate_request("again")))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert [token_ids for token_ids, _ in answers] == [continuation(prompt, 400) for prompt in prompts]
    assert again == continuation([72, 101, 108], 8)
    assert len(engine.deaths) == 3 and engine.deaths[2] == 1


async def test_a_worker_that_answers_out_of_turn_is_sent_away(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stream = await hello_stream(channel)
        session_id = (await stream.read()).attached.session_id
        result = worker_pb2.StepResult(session_id=session_id, step_id=7)
        await stream.write(worker_pb2.AttachRequest(step_result=result))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "the result of step 7 (expected: none)" in (caught.value.details() or "")


async def test_the_last_heartbeat_of_a_lost_worker_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stream = await hello_stream(channel)
        session_id = (await stream.read()).attached.session_id
        heartbeat = worker_pb2.Heartbeat(session_id=session_id, last_step_id=6, step_running=True)
        await stream.write(worker_pb2.AttachRequest(heartbeat=heartbeat))
        assert (await stream.read()).HasField("heartbeat_ack")
        strange = worker_pb2.Heartbeat(session_id=session_id + 1, last_step_id=9)
        await stream.write(worker_pb2.AttachRequest(heartbeat=strange))
        with pytest.raises(grpc.aio.AioRpcError, match=rf"session_id {session_id + 1} \(expected: {session_id}\)"):
            await stream.read()
        (lost,) = [vars(record) for record in caplog.records if record.getMessage() == "worker lost"]
    assert (lost["last_step"], lost["step_running"]) == (6, True)


async def test_a_failed_step_is_tried_elsewhere(tmp_path: Path) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stream = await hello_stream(channel)
        session_id = (await stream.read()).attached.session_id
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(generate_request(max_tokens=4))
        step = (await stream.read()).step
        assert step.session_id == session_id and len(step.new_sequences) == 1
        failed = worker_pb2.StepResult(session_id=session_id, step_id=step.step_id, error="out of memory")
        await stream.write(worker_pb2.AttachRequest(step_result=failed))
        async with instant_worker(address, model_name="m"):
            token_ids, finished = await collect(call)
    assert len(token_ids) == 4 and finished.reason == types_pb2.FINISH_REASON_LENGTH


async def last_result(loop: SchedulerLoop) -> None:
    """Wait until no worker is busy: then the workers know the names of all blocks."""
    while True:
        if not any(worker.is_busy for worker in loop.workers.values()):
            return
        await asyncio.sleep(0.01)


async def test_a_worker_keeps_its_cache_when_the_scheduler_restarts(tmp_path: Path) -> None:
    asked = generate_request(prompt=tuple(range(32, 132)), max_tokens=4)
    address = f"unix:{tmp_path}/scheduler.sock"
    link = fake_worker_link(address)
    worker = asyncio.create_task(link.run())
    async with scheduler(tmp_path) as (_, loop), open_channel(address) as channel:
        await wait_until_ready(address)
        before, finished = await collect(inference_pb2_grpc.InferenceServiceStub(channel).Generate(asked))
        assert finished.usage.num_cached_tokens == 0
        await last_result(loop)
    async with scheduler(tmp_path) as (_, loop), open_channel(address) as channel:
        await wait_until_ready(address)
        assert [worker.pool.num_cached for worker in loop.workers.values()] == [6]
        after, finished = await collect(inference_pb2_grpc.InferenceServiceStub(channel).Generate(asked))
    link.stop()
    await worker
    # 100 tokens of prompt are six full blocks of sixteen.
    assert finished.usage.num_cached_tokens == 96
    assert after == before


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (worker_pb2.AttachRequest(heartbeat=worker_pb2.Heartbeat()), "received fewer HeldBlocks"),
        (held_blocks(worker_pb2.PageBlock(page_id=8, block_hash=b"x" * 16)), "must name page ids below 8"),
        (held_blocks(worker_pb2.PageBlock(page_id=0, block_hash=b"short")), "block hashes of 16 bytes"),
        (held_blocks(*[worker_pb2.PageBlock(page_id=0, block_hash=b"x" * 16)] * 9), "more than the 8 pages"),
    ],
)
async def test_held_blocks_that_cannot_be_are_refused(
    tmp_path: Path, message: worker_pb2.AttachRequest, reason: str
) -> None:
    async with scheduler(tmp_path) as (address, _), open_channel(address) as channel:
        stream = await hello_stream(channel, num_held_blocks_messages=1)
        await stream.write(message)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason in (caught.value.details() or "")


async def test_a_model_leaves_memory_and_comes_back_for_a_request(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, loop), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        before, _ = await collect(stub.Generate(generate_request()))
        await last_result(loop)
        await stub.KeepLoaded(inference_pb2.KeepLoadedRequest(model="fake", keep_alive_s=0))
        (model,) = (await stub.ListModels(inference_pb2.ListModelsRequest())).models
        assert (model.name, model.num_workers, model.num_unloaded_workers) == ("fake", 0, 1)
        await wait_until_ready(address)
        asked = generate_request("again")
        asked.keep_alive_s = 3600
        after, _ = await collect(stub.Generate(asked))
        (model,) = (await stub.ListModels(inference_pb2.ListModelsRequest())).models
    assert after == before
    assert (model.num_workers, model.num_unloaded_workers) == (1, 0)
    assert 3500 < model.expires_in_s <= 3600


async def test_the_progress_of_a_load_is_listed(tmp_path: Path) -> None:
    may_end = threading.Event()
    stores: list[FakeStore] = []

    def make_store(model: worker_pb2.LoadedModel) -> FakeStore:
        stores.append(FakeStore(model))
        return stores[0]

    def load(name: str, digest: str) -> Loaded:
        stores[0].load_progress = LoadProgress(completed_bytes=30, total_bytes=100)
        may_end.wait()
        raise StartError("the file is gone")

    async with (
        scheduler_and_worker(tmp_path, load=load, make_store=make_store) as (address, _),
        open_channel(address) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await stub.KeepLoaded(inference_pb2.KeepLoadedRequest(keep_alive_s=0))
        waiting = asyncio.ensure_future(collect(stub.Generate(generate_request())))
        try:
            async with asyncio.timeout(60):
                while True:
                    (model,) = (await stub.ListModels(inference_pb2.ListModelsRequest())).models
                    if model.loading.completed_bytes:
                        break
                    await asyncio.sleep(0.005)
            assert (model.num_workers, model.loading.completed_bytes, model.loading.total_bytes) == (0, 30, 100)
        finally:
            may_end.set()
        with pytest.raises(grpc.aio.AioRpcError, match="the file is gone"):
            await waiting
        (model,) = (await stub.ListModels(inference_pb2.ListModelsRequest())).models
    assert not model.HasField("loading")


async def test_keeping_loaded_waits_for_the_load(tmp_path: Path) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(3):
            await stub.KeepLoaded(inference_pb2.KeepLoadedRequest(keep_alive_s=0))
            await stub.KeepLoaded(inference_pb2.KeepLoadedRequest(keep_alive_s=float("inf")))
            (model,) = (await stub.ListModels(inference_pb2.ListModelsRequest())).models
            assert model.num_workers == 1
            assert not model.HasField("expires_in_s")


async def test_who_waits_for_a_model_hears_why_it_is_not_loaded(tmp_path: Path) -> None:
    def gone(name: str, digest: str) -> Loaded:
        raise StartError("the file is gone")

    async with scheduler_and_worker(tmp_path, load=gone) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await stub.KeepLoaded(inference_pb2.KeepLoadedRequest(keep_alive_s=0))
        for call in (stub.KeepLoaded(inference_pb2.KeepLoadedRequest()), collect(stub.Generate(generate_request()))):
            with pytest.raises(grpc.aio.AioRpcError, match="the file is gone") as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
async def test_what_is_no_time_is_refused(tmp_path: Path, seconds: float) -> None:
    async with scheduler_and_worker(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="keep_alive_s must be") as caught:
            await stub.KeepLoaded(inference_pb2.KeepLoadedRequest(keep_alive_s=seconds))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
