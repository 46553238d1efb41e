"""Tests of several workers with one id: one serves, the others are refused with a reason, and one takes over when it is gone."""

import logging
import signal
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2_grpc, worker_pb2
from scheduler.loop import SchedulerLoop
from tests.fakes.engine import continuation
from tests.fakes.log_records import own_records
from tests.fakes.scheduler_process import instant_worker, scheduler, wait_until_ready
from tests.fakes.waiting import until
from tests.integration.test_scheduler_services import collect, generate_request, hello_stream
from tests.integration.test_worker_process import process

QUICK = {"heartbeat_s": 0.1, "silence_s": 2.0}
PROMPT = [72, 101, 108]


async def answers(channel: grpc.aio.Channel) -> bool:
    """Return True if a request gets the right tokens; it waits for a worker."""
    tokens, _ = await collect(inference_pb2_grpc.InferenceServiceStub(channel).Generate(generate_request()))
    return tokens == continuation(PROMPT, 8)


async def refused(caplog: pytest.LogCaptureFixture, times: int = 1) -> None:
    await until(lambda: sum(record.getMessage() == "worker refused" for record in caplog.records) >= times)


def session_of(loop: SchedulerLoop, worker_id: str = "w") -> int:
    return loop.workers[worker_id].session_id


async def other_session(loop: SchedulerLoop, session_id: int) -> None:
    await until(lambda: "w" in loop.workers and session_of(loop) != session_id)


@pytest.mark.parametrize("killed", ["first", "second"])
async def test_of_two_that_live_the_first_serves_and_either_may_die(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, killed: str
) -> None:
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        address, loop = await stack.enter_async_context(scheduler(tmp_path, **QUICK))
        channel = await stack.enter_async_context(open_channel(address))
        first = await stack.enter_async_context(AsyncExitStack())
        second = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(instant_worker(address, worker_id="w"))
        session_id = session_of(loop)
        await second.enter_async_context(instant_worker(address, worker_id="w"))
        await refused(caplog)
        assert session_of(loop) == session_id and await answers(channel)
        if killed == "second":
            await second.aclose()
            assert session_of(loop) == session_id
        else:
            await first.aclose()
            await other_session(loop, session_id)
        assert await answers(channel) and loop.is_ready
    (by_scheduler,) = [record for record in caplog.records if record.getMessage() == "worker refused"]
    (by_worker,) = [record for record in caplog.records if record.getMessage().startswith("cannot attach")]
    for record in (by_scheduler, by_worker):
        reason = str(vars(record)["reason"])
        assert "another live process is attached as 'w'" in reason and "--worker-id" in reason


async def test_processes_that_are_frozen_and_killed_follow_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another of three processes with one id takes over when the serving one is frozen, and each time one is killed."""
    async with AsyncExitStack() as stack:
        address, loop = await stack.enter_async_context(scheduler(tmp_path, **QUICK))
        channel = await stack.enter_async_context(open_channel(address))
        by_epoch: dict[int, Process] = {}
        for number in range(3):
            flags = ("--scheduler", address, "--worker-id", "w")
            worker = await stack.enter_async_context(process("tests.fakes.worker", *flags))
            await (refused(caplog, times=number) if number else wait_until_ready(address))
            by_epoch[vars(caplog.records[-1])["epoch"] if number else loop.workers["w"].info.epoch] = worker
        frozen = by_epoch[loop.workers["w"].info.epoch]
        frozen.send_signal(signal.SIGSTOP)
        assert await answers(channel)
        caplog.clear()
        frozen.send_signal(signal.SIGCONT)
        await refused(caplog)
        for _ in range(2):
            session_id = session_of(loop)
            by_epoch.pop(loop.workers["w"].info.epoch).kill()
            await other_session(loop, session_id)
            assert await answers(channel)
        assert set(by_epoch) == {loop.workers["w"].info.epoch}


async def test_a_frozen_worker_is_followed_and_does_not_come_back_before_its_successor(tmp_path: Path) -> None:
    async with scheduler(tmp_path, heartbeat_s=0.1, silence_s=0.5) as (address, loop), open_channel(address) as channel:
        frozen = await hello_stream(channel, epoch=1)
        session_id = (await frozen.read()).attached.session_id
        async with instant_worker(address, worker_id="w"):
            await other_session(loop, session_id)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await frozen.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(
                grpc.aio.AioRpcError, match="a process that started later is attached as 'w'"
            ) as refusal:
                await (await hello_stream(channel, epoch=1)).read()
            assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
        thawed = await hello_stream(channel, epoch=1)
        assert (await thawed.read()).HasField("attached")


async def test_a_process_that_opens_another_stream_ends_its_older_one(tmp_path: Path) -> None:
    """The older stream ends with an error that says so, and the new stream serves."""
    async with scheduler(tmp_path) as (address, loop), open_channel(address) as channel:
        old = await hello_stream(channel)
        old_id = (await old.read()).attached.session_id
        new = await hello_stream(channel)
        new_id = (await new.read()).attached.session_id
        with pytest.raises(grpc.aio.AioRpcError, match="has opened another stream") as caught:
            await old.read()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert session_of(loop) == new_id != old_id
        await new.write(worker_pb2.AttachRequest(heartbeat=worker_pb2.Heartbeat(session_id=new_id)))
        assert (await new.read()).HasField("heartbeat_ack")


async def test_one_id_at_two_schedulers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each worker serves at its own scheduler. When one scheduler ends, its worker is refused by the other until it is needed."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with AsyncExitStack() as stack:
        stay, loop = await stack.enter_async_context(scheduler(tmp_path / "b", **QUICK))
        there = await stack.enter_async_context(AsyncExitStack())
        gone, _ = await there.enter_async_context(scheduler(tmp_path / "a", **QUICK))
        here = await stack.enter_async_context(AsyncExitStack())
        await here.enter_async_context(instant_worker(stay, worker_id="w"))
        session_id = session_of(loop)
        await stack.enter_async_context(instant_worker(f"{gone},{stay}", worker_id="w"))
        channel = await stack.enter_async_context(open_channel(stay))
        await there.aclose()
        await refused(caplog)
        assert session_of(loop) == session_id and await answers(channel)
        await here.aclose()
        await other_session(loop, session_id)
        assert await answers(channel)


async def test_workers_without_a_model_are_told_apart_too(tmp_path: Path) -> None:
    async with scheduler(tmp_path, **QUICK) as (address, loop), open_channel(address) as channel:
        first = await hello_stream(channel, epoch=2, has_model=False)
        assert (await first.read()).HasField("attached")
        with pytest.raises(grpc.aio.AioRpcError, match="is attached as 'w'"):
            await (await hello_stream(channel, epoch=1)).read()
        assert "w" in loop.loading.stores.unloaded and "w" not in loop.workers


async def test_a_stream_on_which_nothing_is_said_ends_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with scheduler(tmp_path, heartbeat_s=0.1, silence_s=0.3) as (address, _), open_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"no message for 0\.3 s") as caught:
            await (await hello_stream(channel, says_hello=False)).read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        closed = await hello_stream(channel, says_hello=False)
        await closed.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="the stream ended before the worker was attached"):
            await closed.read()
    assert [record for record in own_records(caplog) if record.exc_info] == []
    assert sum(record.getMessage() == "silent stream ended" for record in caplog.records) == 1
