"""Tests of the link, in which the test plays the scheduler's side of the stream and holds and releases the engine."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest

from pagoda.models.errors import ModelFormatError
from pagoda.wire.step_result import StepResult
from protos.v1 import types_pb2, worker_pb2
from tests.e2e.system import free_port
from tests.fakes.engine import FakeEngine, continuation
from tests.fakes.scheduler_stream import FakeScheduler, FakeSession, serving
from tests.fakes.step_runner import WholeStepEngine
from tests.fakes.tcp_proxy import tcp_proxy
from worker.errors import DeviceLostError, EngineHangsError, StartError, UnusableModelError
from worker.rpc.scheduler_link import SchedulerLink
from worker.rpc.scheduler_spread import by_preference
from worker.steps.engine_thread import Load, Loaded, StepRunner
from worker.steps.step import Step

MODEL = worker_pb2.LoadedModel(name="m", num_pages=8, page_size=16)
HELLO = worker_pb2.Hello(worker_id="w1", epoch=7, instance="i1", device="fake", model=MODEL)


class HeldEngine(WholeStepEngine):
    """An engine that reports each step when it begins, and ends it when the test releases it."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.events: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._released = threading.Semaphore(0)

    def release(self) -> None:
        self._released.release()

    def run_step(self, step: Step) -> StepResult:
        self._loop.call_soon_threadsafe(self.begun.put_nowait, step.step_id)
        self._released.acquire()
        self.events.append(f"step {step.step_id}")
        return StepResult(step_id=step.step_id)

    def reset(self) -> None:
        self.events.append("reset")


def no_load(name: str, digest: str) -> Loaded:
    raise AssertionError("unexpected load of a model")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path / 's.sock'}"


@pytest.fixture
async def scheduler(address: str) -> AsyncIterator[FakeScheduler]:
    scheduler = FakeScheduler()
    async with serving(scheduler, address):
        yield scheduler


@asynccontextmanager
async def attached(engine: StepRunner, *addresses: str, load: Load = no_load) -> AsyncIterator[SchedulerLink]:
    link = SchedulerLink(engine, load, HELLO, addresses)
    running = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        link.stop()
        await running


def step(step_id: int, **fields: object) -> worker_pb2.Step:
    return worker_pb2.Step(step_id=step_id, **fields)  # type: ignore[arg-type]  # the message checks its fields itself


def first_step(token_ids: list[int]) -> worker_pb2.Step:
    new = worker_pb2.NewSequence(
        sequence_id=1,
        attempt=1,
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids),
        sampling=types_pb2.SamplingParams(temperature=0.0),
    )
    scheduled = worker_pb2.ScheduledSequence(
        sequence_id=1, start=0, num_tokens=len(token_ids), new_page_ids=[0], max_new_tokens=1
    )
    return step(1, new_sequences=[new], scheduled=[scheduled])


def decode_step(step_id: int, start: int) -> worker_pb2.Step:
    return step(
        step_id, scheduled=[worker_pb2.ScheduledSequence(sequence_id=1, start=start, num_tokens=1, max_new_tokens=1)]
    )


@contextmanager
def awaiting_log(message: str, level: int = logging.INFO) -> Iterator[asyncio.Event]:
    """Yield an event that is set when the worker logs this message."""
    logged, logger = asyncio.Event(), logging.getLogger("worker")

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == message:
                logged.set()

    listener, level_before = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(level)
    try:
        yield logged
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level_before)


async def test_it_says_hello_and_answers_steps_in_order(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        session = await scheduler.sessions.get()
        assert session.hello == HELLO
        # With two steps in flight, the input of the second is the token that the first samples.
        session.send_step(first_step([5, 6, 7]))
        session.send_step(decode_step(2, start=3))
        results = [await session.result(), await session.result()]
    assert [result.step_id for result in results] == [1, 2]
    assert {result.session_id for result in results} == {session.session_id}
    tokens = [token for result in results for token in result.sampled_batch.token_ids]
    assert tokens == continuation([5, 6, 7], 2)


async def test_heartbeats_go_out_while_a_step_runs(address: str) -> None:
    scheduler, engine = FakeScheduler(heartbeat_interval_ms=20), HeldEngine()
    async with serving(scheduler, address), attached(engine, address):
        session = await scheduler.sessions.get()
        session.send_step(step(1))
        assert await engine.begun.get() == 1
        running = await next_heartbeat(session, step_running=True)
        engine.release()
        await session.result()
        idle = await next_heartbeat(session, step_running=False, last_step_id=1)
    assert running.last_step_id == 0
    assert {running.session_id, idle.session_id} == {session.session_id}


async def next_heartbeat(session: FakeSession, **expected: int) -> worker_pb2.Heartbeat:
    while True:
        heartbeat = await session.heartbeats.get()
        if all(getattr(heartbeat, name) == value for name, value in expected.items()):
            return heartbeat


async def test_a_lost_stream_drops_queued_steps_and_resets_before_it_attaches_again(
    scheduler: FakeScheduler, address: str
) -> None:
    engine = HeldEngine()
    async with attached(engine, address):
        lost = await scheduler.sessions.get()
        lost.send_step(step(1))
        lost.send_step(step(2))
        assert await engine.begun.get() == 1
        with awaiting_log("stream ended", logging.DEBUG) as ended:
            lost.end()
            await ended.wait()
        engine.release()
        session = await scheduler.sessions.get()
        events_when_attached = list(engine.events)
        session.send_step(step(1))
        engine.release()
        assert (await session.result()).session_id == session.session_id
    assert session.session_id != lost.session_id
    assert events_when_attached == ["step 1", "reset"]
    assert engine.events[:3] == ["step 1", "reset", "step 1"]


async def test_a_step_that_raises_is_reported_and_ends_the_session(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        failed = await scheduler.sessions.get()
        failed.send_step(decode_step(1, start=3))
        result = await failed.result()
        await failed.worker_left()
        assert result.step_id == 1
        assert "sequence 1 is scheduled but unknown" in result.error
        session = await scheduler.sessions.get()
        session.send_step(first_step([5, 6, 7]))
        assert not (await session.result()).error


async def test_the_engine_forgets_sequences_of_an_ended_session(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        first = await scheduler.sessions.get()
        first.send_step(first_step([5, 6, 7]))
        await first.result()
        first.end()
        second = await scheduler.sessions.get()
        second.send_step(decode_step(1, start=3))
        assert "unknown" in (await second.result()).error


async def test_a_message_of_another_session_is_ignored_with_a_warning(
    scheduler: FakeScheduler, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        session = await scheduler.sessions.get()
        session.send_step(step(8), session_id=session.session_id + 1)
        session.send_step(step(1))
        assert (await session.result()).step_id == 1
    assert "message of another session ignored" in caplog.messages


async def test_drain_finishes_what_is_queued_and_then_ends_the_stream(scheduler: FakeScheduler, address: str) -> None:
    engine = HeldEngine()
    async with attached(engine, address):
        session = await scheduler.sessions.get()
        session.send_step(step(1))
        session.send_step(step(2))
        session.send_drain()
        await engine.begun.get()
        engine.release()
        engine.release()
        assert [(await session.result()).step_id, (await session.result()).step_id] == [1, 2]
        await session.worker_left()
        # The worker attaches again: the scheduler that drained may be one of several, or may come back.
        assert (await scheduler.sessions.get()).session_id != session.session_id


async def test_stop_answers_the_running_step_and_leaves(scheduler: FakeScheduler, address: str) -> None:
    engine = HeldEngine()
    link = SchedulerLink(engine, no_load, HELLO, [address])
    running = asyncio.create_task(link.run())
    session = await scheduler.sessions.get()
    session.send_step(step(1))
    session.send_step(step(2))
    await engine.begun.get()
    link.stop()
    engine.release()
    await running
    assert (await session.result()).step_id == 1
    await session.worker_left()
    assert engine.events == ["step 1", "reset"]


async def test_a_leaving_worker_goes_on_until_it_is_dismissed(scheduler: FakeScheduler, address: str) -> None:
    link = SchedulerLink(FakeEngine(num_pages=4), no_load, HELLO, [address])
    running = asyncio.create_task(link.run())
    session = await scheduler.sessions.get()
    session.send_step(first_step([5, 6, 7]))
    results = [await session.result()]
    link.leave(grace_s=3600)
    leaving = await session.leavings.get()
    assert (leaving.session_id, leaving.grace_ms) == (session.session_id, 3_600_000)
    session.send_step(decode_step(2, start=3))
    results += [await session.result()]
    assert [token for result in results for token in result.sampled_batch.token_ids] == continuation([5, 6, 7], 2)
    session.send_drain()
    await session.worker_left()
    await running


async def test_a_leaving_worker_waits_no_longer_than_its_grace(scheduler: FakeScheduler, address: str) -> None:
    link = SchedulerLink(FakeEngine(num_pages=4), no_load, HELLO, [address])
    running = asyncio.create_task(link.run())
    session = await scheduler.sessions.get()
    session.send_step(first_step([5, 6, 7]))
    await session.result()
    link.leave(grace_s=0)
    await session.worker_left()
    await running


def lease(step_id: int, num_steps: int) -> worker_pb2.Step:
    batch = worker_pb2.DecodeBatch(sequence_ids=[1], starts=[3], num_steps=[num_steps])
    return step(step_id, decode_batch=batch, max_steps=num_steps)


async def test_a_lease_is_answered_step_by_step(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        session = await scheduler.sessions.get()
        session.send_step(first_step([5, 6, 7]))
        session.send_step(lease(2, num_steps=4))
        session.send_step(decode_step(6, start=7))
        results = [await session.result() for _ in range(6)]
    assert [result.step_id for result in results] == [1, 2, 3, 4, 5, 6]
    assert not any(result.next_is_last for result in results)
    tokens = [token for result in results for token in result.sampled_batch.token_ids]
    assert tokens == continuation([5, 6, 7], 6)


async def test_a_recalled_lease_ends_one_step_behind_the_result_that_says_so(
    scheduler: FakeScheduler, address: str
) -> None:
    engine = HeldEngine()
    async with attached(engine, address):
        session = await scheduler.sessions.get()
        session.send_step(lease(1, num_steps=8))
        assert await engine.begun.get() == 1
        session.send_recall(1)
        # The worker reads in order, so earlier messages have arrived once the warning about the other session's is logged.
        with awaiting_log("message of another session ignored", logging.WARNING) as warned:
            session.send_step(step(9), session_id=session.session_id + 1)
            await warned.wait()
        engine.release()
        assert (await session.result()).next_is_last
        session.send_step(step(3))
        for step_id in (2, 3):
            assert await engine.begun.get() == step_id
            engine.release()
            result = await session.result()
            assert (result.step_id, result.next_is_last) == (step_id, False)


async def test_a_lease_of_an_ended_stream_stops_behind_the_running_step(address: str) -> None:
    engine, scheduler = HeldEngine(), FakeScheduler()
    async with serving(scheduler, address):
        link = SchedulerLink(engine, no_load, HELLO, [address])
        running = asyncio.create_task(link.run())
        session = await scheduler.sessions.get()
        session.send_step(lease(1, num_steps=8))
        await engine.begun.get()
        link.stop()
        engine.release()
        await running
    assert engine.events == ["step 1", "reset"]


async def test_it_waits_for_a_scheduler_and_says_so_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="worker")
    scheduler = FakeScheduler()
    async with attached(FakeEngine(num_pages=4), address):
        with awaiting_log("cannot attach to scheduler; retrying") as warned:
            await warned.wait()
        with awaiting_log("attached to scheduler") as attached_at_last:
            async with serving(scheduler, address):
                await attached_at_last.wait()
    assert caplog.messages.count("cannot attach to scheduler; retrying") == 1


def two_addresses(directory: Path) -> tuple[str, ...]:
    """Return two addresses, in the order in which this worker tries them."""
    return by_preference(HELLO.worker_id, [f"unix:{directory / name}.sock" for name in ("one", "two")])


async def test_schedulers_are_tried_in_turn(tmp_path: Path) -> None:
    unused, served = two_addresses(tmp_path)
    scheduler = FakeScheduler()
    async with serving(scheduler, served), attached(FakeEngine(num_pages=4), unused, served):
        assert (await scheduler.sessions.get()).hello == HELLO


async def test_a_session_in_which_the_scheduler_fell_silent_keeps_no_connection() -> None:
    """Check that the connection is closed immediately and not by a full garbage collection, which may be an hour away."""
    address, scheduler = f"127.0.0.1:{free_port()}", FakeScheduler(heartbeat_interval_ms=20, silence_timeout_ms=200)
    gc.disable()
    try:
        async with serving(scheduler, address), tcp_proxy(address) as proxy:
            async with attached(FakeEngine(num_pages=4), proxy.address):
                session = await scheduler.sessions.get()
                await session.heartbeats.get()  # The worker has heard from the scheduler, too.
                with awaiting_log("session ended", logging.WARNING) as ended:
                    proxy.freeze()
                    await ended.wait()
            while num_connections_to(proxy.port):  # noqa: ASYNC110  # gRPC's own threads close them
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


def num_connections_to(port: int) -> int:
    connections = psutil.Process().net_connections("tcp")
    return sum(1 for connection in connections if connection.raddr and connection.raddr.port == port)


async def test_a_scheduler_that_falls_silent_is_left_for_the_next(tmp_path: Path) -> None:
    silent, other = FakeScheduler(heartbeat_interval_ms=20, silence_timeout_ms=200), FakeScheduler()
    addresses = two_addresses(tmp_path)
    engine = HeldEngine()
    async with serving(silent, addresses[0]), serving(other, addresses[1]), attached(engine, *addresses):
        session = await silent.sessions.get()
        # The worker stays as long as the scheduler answers.
        for _ in range(30):
            await session.heartbeats.get()
            session.send_heartbeat_ack()
        session.send_step(step(1))
        session.send_step(step(2))
        assert await engine.begun.get() == 1
        await session.worker_left()
        engine.release()
        again = await other.sessions.get()
        # Queued steps are dropped, and the running step is void, because its session is over.
        assert engine.events == ["step 1", "reset"]
        again.send_step(step(1))
        engine.release()
        assert (await again.result()).step_id == 1


async def test_a_failed_step_is_reported_to_the_same_scheduler_again(tmp_path: Path) -> None:
    first, second = FakeScheduler(), FakeScheduler()
    addresses = two_addresses(tmp_path)
    async with serving(first, addresses[0]), serving(second, addresses[1]):
        async with attached(FakeEngine(num_pages=4), *addresses):
            session = await first.sessions.get()
            session.send_step(decode_step(1, start=3))
            assert (await session.result()).error
            await first.sessions.get()
    assert second.sessions.empty()


async def test_an_engine_that_hangs_when_its_stream_has_ended_ends_the_link(
    scheduler: FakeScheduler, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rpc.session._LAST_STEP_S", 0.05)
    engine = HeldEngine()
    link = SchedulerLink(engine, no_load, HELLO, [address])
    running = asyncio.create_task(link.run())
    session = await scheduler.sessions.get()
    session.send_step(step(1))
    await engine.begun.get()
    session.end()
    with pytest.raises(EngineHangsError, match="the last step did not end"):
        await running
    engine.release()


async def test_stop_while_no_scheduler_answers_returns_at_once(address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        pass


async def test_an_engine_that_cannot_be_reset_ends_the_link(scheduler: FakeScheduler, address: str) -> None:
    class BrokenEngine(FakeEngine):
        def reset(self) -> None:
            raise RuntimeError("the device is gone")

    link = SchedulerLink(BrokenEngine(num_pages=4), no_load, HELLO, [address])
    running = asyncio.create_task(link.run())
    (await scheduler.sessions.get()).end()
    with pytest.raises(RuntimeError, match="the device is gone"):
        await running


def named(page_id: int) -> worker_pb2.PageBlock:
    return worker_pb2.PageBlock(page_id=page_id, block_hash=bytes([page_id]) * 16)


async def test_what_the_pages_hold_is_reported_to_the_next_scheduler(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=8), address):
        first = await scheduler.sessions.get()
        assert not first.held_blocks
        first.send_step(step(1, sealed_blocks=[named(0), named(2), named(5)]))
        await first.result()
        first.end()
        second = await scheduler.sessions.get()
    assert second.hello.num_held_blocks_messages == 1
    assert second.held_blocks == [named(0), named(2), named(5)]


async def test_after_a_failed_step_no_page_is_trusted(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=8), address):
        failed = await scheduler.sessions.get()
        failed.send_step(step(1, sealed_blocks=[named(0)]))
        failed.send_step(decode_step(2, start=3))
        await failed.result()
        assert (await failed.result()).error
        assert not (await scheduler.sessions.get()).held_blocks


async def unloaded(scheduler: FakeScheduler) -> FakeSession:
    """Unload the model and return the worker's next session."""
    session = await scheduler.sessions.get()
    session.send_unload()
    await session.worker_left()
    return await scheduler.sessions.get()


async def test_an_unloaded_worker_lets_go_of_all(scheduler: FakeScheduler, address: str) -> None:
    engine = FakeEngine(num_pages=8)
    gone = weakref.ref(engine)
    link = SchedulerLink(engine, no_load, HELLO, [address])
    del engine
    running = asyncio.create_task(link.run())
    first = await scheduler.sessions.get()
    first.send_step(step(1, sealed_blocks=[named(0)]))
    await first.result()
    first.send_unload()
    second = await scheduler.sessions.get()
    assert not second.hello.HasField("model")
    assert not second.held_blocks
    assert gone() is None
    link.stop()
    await running


async def test_it_loads_the_requested_model_and_computes(scheduler: FakeScheduler, address: str) -> None:
    other = worker_pb2.LoadedModel(name="other", digest="the one", num_pages=4, page_size=32)

    def load(name: str, digest: str) -> Loaded:
        assert (name, digest) == (other.name, other.digest)
        return Loaded(FakeEngine(num_pages=4), other)

    async with attached(FakeEngine(num_pages=4), address, load=load):
        idle = await unloaded(scheduler)
        idle.send_load("other", digest="the one")
        again = await scheduler.sessions.get()
        assert again.hello.model == other
        again.send_step(first_step([5, 6, 7]))
        assert list((await again.result()).sampled_batch.token_ids) == continuation([5, 6, 7], 1)


async def test_what_cannot_be_loaded_is_said_and_may_be_tried_again(scheduler: FakeScheduler, address: str) -> None:
    outcomes: list[Exception | FakeEngine] = [
        StartError("the file is gone"),
        MemoryError(),
        UnusableModelError("/home/you/models/m.gguf: the tensor 'a/b' is missing"),
        ModelFormatError("no model"),
        FakeEngine(num_pages=4),
    ]

    def load(name: str, digest: str) -> Loaded:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return Loaded(outcome, MODEL)

    async with attached(FakeEngine(num_pages=4), address, load=load):
        idle = await unloaded(scheduler)
        for reason, out_of_memory, permanent in (
            ("the file is gone", False, False),
            ("MemoryError", True, False),
            ("m.gguf: the tensor 'a/b' is missing", False, True),
            ("no model", False, True),
        ):
            idle.send_load("fake")
            failed = await idle.failures.get()
            assert (failed.session_id, failed.error) == (idle.session_id, reason)
            assert (failed.out_of_memory, failed.permanent) == (out_of_memory, permanent)
        idle.send_load("fake")
        assert (await scheduler.sessions.get()).hello.HasField("model")


async def test_a_device_that_is_lost_while_it_loads_ends_the_link(scheduler: FakeScheduler, address: str) -> None:
    def load(name: str, digest: str) -> Loaded:
        raise DeviceLostError("it computes nothing more")

    link = SchedulerLink(FakeEngine(num_pages=4), load, HELLO, [address])
    running = asyncio.create_task(link.run())
    idle = await unloaded(scheduler)
    idle.send_load("fake")
    with pytest.raises(DeviceLostError):
        await running


async def test_a_worker_without_a_model_comes_back_as_one(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        idle = await unloaded(scheduler)
        idle.end()
        assert (await scheduler.sessions.get()).hello == idle.hello


async def test_a_step_without_a_model_fails(scheduler: FakeScheduler, address: str) -> None:
    async with attached(FakeEngine(num_pages=4), address):
        idle = await unloaded(scheduler)
        idle.send_step(first_step([1]))
        assert "no model is loaded" in (await idle.result()).error
