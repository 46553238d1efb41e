"""The real scheduler in this process, with instant workers: everything but the model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagoda.rpc.grpc_channel import open_channel
from scheduler.__main__ import running_scheduler
from scheduler.loop import SchedulerLoop
from scheduler.rpc.inference_service import SERVICE_NAME
from scheduler.settings import SchedulerSettings
from tests.fakes.worker import fake_worker_link
from worker.rpc.scheduler_link import SchedulerLink


@asynccontextmanager
async def scheduler(directory: Path, **settings: Any) -> AsyncIterator[tuple[str, SchedulerLoop]]:
    """Run a scheduler without workers and yield its address and its loop."""
    address = f"unix:{directory}/scheduler.sock"
    async with running_scheduler(SchedulerSettings(listen=address, home=directory, **settings)) as loop:
        yield address, loop


@asynccontextmanager
async def instant_worker(address: str, **options: Any) -> AsyncIterator[SchedulerLink]:
    """Attach a worker while the block runs, then cut its connection."""
    link = fake_worker_link(address, **options)
    task = asyncio.create_task(link.run())
    try:
        await wait_until_ready(address)
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def scheduler_and_worker(directory: Path, **options: Any) -> AsyncIterator[tuple[str, SchedulerLoop]]:
    async with AsyncExitStack() as stack:
        address, loop = await stack.enter_async_context(scheduler(directory))
        await stack.enter_async_context(instant_worker(address, **options))
        yield address, loop


async def wait_until_ready(address: str) -> None:
    """Wait until the health service reports that requests are served."""
    async with open_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        async for status in health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True):
            if status.status == health_pb2.HealthCheckResponse.SERVING:
                return
