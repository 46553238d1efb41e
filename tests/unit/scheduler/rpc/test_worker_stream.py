"""Tests of the end of a worker's stream."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from protos.v1 import worker_pb2
from scheduler.faults.worker_watch import Patience
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.rpc.worker_greeting import Greeting
from scheduler.rpc.worker_stream import WorkerStream
from tests.fakes.clock import FakeClock

PATIENCE = Patience(silence_s=60.0, step_time_multiple=10.0, stalled_step_s=60.0)


async def ended_messages(ended: asyncio.Event) -> AsyncIterator[worker_pb2.AttachRequest]:
    ended.set()
    return
    yield


@pytest.mark.parametrize("dies", [False, True])
async def test_messages_of_a_dead_loading_worker_end_before_its_call_is_cancelled(dies: bool) -> None:
    clock = FakeClock()
    loop = SchedulerLoop(clock, SchedulingPolicy())
    model = worker_pb2.LoadableModel(name="m", digest="0", page_size=16, max_model_len=64, vocab_size=300)
    loadable = worker_pb2.LoadableModels(models=[model], host_id="h")
    hello = worker_pb2.Hello(worker_id="w", epoch=1, device="cpu", loadable_models=loadable)
    stream = WorkerStream(loop, Greeting(hello=hello, held_blocks=[]), heartbeat_s=60.0, patience=PATIENCE)
    loop.loading.keep_loaded("m", None, on_outcome=lambda _: None)
    clock.run_soon()
    worker = loop.loading.stores.unloaded["w"]
    assert worker.loading == "m"
    ended = asyncio.Event()
    serving = asyncio.create_task(stream.serve_until_end(ended_messages(ended)))
    await ended.wait()
    if dies:
        for _ in range(10):  # The end of the messages is noticed by all tasks.
            await asyncio.sleep(0)
        serving.cancel()
    await asyncio.wait([serving])
    assert worker.is_lost == dies
