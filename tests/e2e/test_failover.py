"""Tests of workers that are killed, frozen and cut off while streams of all kinds run, and of many kills in a row.

Each stream ends with exactly the tokens of an undisturbed run, and no resources stay in use. All tests share one system of two
workers, each behind a network that the test can break.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc
from tests.e2e.failover_streams import MAX_TOKENS, Asker, Clients
from tests.e2e.guided_streams import GUIDED, NUM_FREE, check_guided
from tests.e2e.received import Answer
from tests.e2e.tiers import Tier, Tiers
from tests.fakes.otlp_receiver import OTLPReceiver, otlp_receiver
from tests.fakes.tcp_proxy import TCPProxy, tcp_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = range(NUM_FREE)
NUM_KILLS = 4
WORKERS = ("first", "second")
IsSo = Callable[[inference_pb2.GetLoadResponse], bool]


class Cluster:
    """A gateway, a scheduler, and two workers by name, each with its network."""

    def __init__(self, tiers: Tiers, receiver: OTLPReceiver) -> None:
        self.receiver = receiver
        self.scheduler = tiers.scheduler("--otlp-endpoint", receiver.endpoint)
        self.gateway = tiers.gateway([self.scheduler], "--otlp-endpoint", receiver.endpoint)
        self.networks: dict[str, TCPProxy] = {}
        self.workers: dict[str, Tier] = {}
        self._tiers = tiers

    def start_worker(self, name: str) -> None:
        self.workers[name] = self._tiers.worker([self.networks[name].address], "--worker-id", name)

    @property
    def num_moved(self) -> float:
        return self.gateway.metric("pagoda_moved_samples_total")

    async def load(self) -> inference_pb2.GetLoadResponse:
        async with open_channel(self.scheduler.address, self.scheduler.security) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            return await stub.GetLoad(inference_pb2.GetLoadRequest(), wait_for_ready=True)

    async def until(self, is_so: IsSo) -> inference_pb2.GetLoadResponse:
        """Poll until the load meets the condition; the deadline is the test's time limit."""
        while True:
            if is_so(load := await self.load()):
                return load
            await asyncio.sleep(0.05)

    async def until_attached(self, *names: str) -> None:
        await self.until(lambda load: {worker.worker_id for worker in load.workers} == set(names))

    async def busiest(self) -> str:
        load = await self.until(lambda load: load.num_running > 0)
        return max(load.workers, key=lambda worker: worker.num_running).worker_id


def other_than(name: str) -> str:
    return WORKERS[1 - WORKERS.index(name)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(home: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(otlp_receiver())
        tiers = stack.enter_context(Tiers(home, tmp_path_factory.mktemp("failover")))
        cluster = Cluster(tiers, receiver)
        for name in WORKERS:
            cluster.networks[name] = await stack.enter_async_context(tcp_proxy(cluster.scheduler.address))
            cluster.start_worker(name)
        await cluster.until_attached(*WORKERS)
        await asyncio.to_thread(cluster.gateway.wait_until_ready)
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(cluster: Cluster) -> AsyncIterator[Clients]:
    async with Clients(cluster.gateway.url) as clients:
        yield clients


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(clients: Clients) -> list[Answer]:
    answers = await clients.ask_all(STREAMS)
    token_ids = [sample.token_ids for answer in answers[::4] + answers[1::4] for sample in answer.values()]
    assert all(len(each) == MAX_TOKENS for each in token_ids)
    return answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guided(clients: Clients) -> list[Answer]:
    answers = await clients.ask_all(GUIDED)
    check_guided(answers)
    return answers


async def kill(cluster: Cluster, name: str) -> None:
    cluster.workers[name].kill()
    await cluster.until_attached(other_than(name))
    cluster.start_worker(name)


async def freeze(cluster: Cluster, name: str) -> None:
    """Freeze the worker until its sequences have resumed elsewhere, so that its results arrive too late."""
    cluster.workers[name].freeze()
    await cluster.until_attached(other_than(name))
    cluster.workers[name].thaw()


async def cut_off(cluster: Cluster, name: str) -> None:
    """Drop all packets of the worker, including those that would end a connection, until it is given up."""
    cluster.networks[name].freeze()
    await cluster.until_attached(other_than(name))
    cluster.networks[name].thaw()


Fail = Callable[[Cluster, str], Coroutine[Any, Any, None]]


async def ask_while_failing(cluster: Cluster, clients: Clients, numbers: Sequence[int], fail: Fail) -> list[Answer]:
    """Request streams, and let the busiest worker fail in the middle of them. Return the answers."""
    num_moved, num_chunks, are_running = cluster.num_moved, 0, asyncio.Event()

    def on_chunk() -> None:
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks == 2 * len(numbers):
            are_running.set()

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(clients.ask_all(numbers, on_chunk))
        await are_running.wait()
        group.create_task(fail(cluster, await cluster.busiest()))
    assert cluster.num_moved > num_moved
    await cluster.until_attached(*WORKERS)
    return asking.result()


@pytest.mark.parametrize("fail", [kill, freeze])
async def test_guided_streams_end_with_the_same_json(
    cluster: Cluster, clients: Clients, guided: list[Answer], fail: Fail
) -> None:
    assert await ask_while_failing(cluster, clients, GUIDED, fail) == guided


@pytest.mark.parametrize("fail", [kill, freeze, cut_off])
async def test_every_stream_ends_with_the_tokens_of_an_undisturbed_run(
    cluster: Cluster, clients: Clients, undisturbed: list[Answer], fail: Fail
) -> None:
    num_spans = len(cluster.receiver.spans)
    assert await ask_while_failing(cluster, clients, STREAMS, fail) == undisturbed
    # Both tiers record the move in the request's trace.
    await cluster.receiver.until(
        lambda received: _who_moved(received, num_spans) == {"pagoda-gateway", "pagoda-scheduler"}
    )


def _who_moved(received: OTLPReceiver, num_spans: int) -> set[str]:
    return {span.service for span in received.spans[num_spans:] if "moved" in span.events}


async def test_nothing_is_left_of_a_storm_of_kills(
    cluster: Cluster, clients: Clients, undisturbed: list[Answer], guided: list[Answer]
) -> None:
    chance = random.Random(5)
    before = [_resources(tier) for tier in (cluster.scheduler, cluster.gateway)]
    askers = [Asker(clients, [*undisturbed, *guided], chance) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for asker in askers:
            group.create_task(asker.run())
        for _ in range(NUM_KILLS):
            await asyncio.gather(*(asker.gets_on() for asker in askers))
            load = await cluster.until(lambda load: len(load.workers) > 0)
            victim = chance.choice(load.workers).worker_id
            cluster.workers[victim].kill()
            cluster.start_worker(victim)
        for asker in askers:
            asker.is_to_end = True
    assert all(asker.num_answers > 1 for asker in askers)
    await cluster.until_attached(*WORKERS)
    await cluster.until(_is_empty)
    for tier, most in zip((cluster.scheduler, cluster.gateway), before, strict=True):
        async with asyncio.timeout(200):
            await _until_no_more(tier, most)


def _is_empty(load: inference_pb2.GetLoadResponse) -> bool:
    return load.num_running == load.num_waiting == sum(worker.num_pages_used for worker in load.workers) == 0


def _resources(tier: Tier) -> tuple[int, int, int]:
    process = psutil.Process(tier.process.pid)
    return process.num_fds(), process.num_threads(), len(process.children())


async def _until_no_more(tier: Tier, most: tuple[int, int, int]) -> None:
    """Wait until the tier uses no more resources than before: idle connections are closed after some seconds."""
    while True:
        now = _resources(tier)
        if all(number <= limit for number, limit in zip(now, most, strict=True)):
            return
        await asyncio.sleep(0.1)
