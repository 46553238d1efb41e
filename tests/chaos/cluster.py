"""The cluster under test: two gateways, two schedulers that share a real Valkey, and three workers for either scheduler."""

import asyncio
from collections.abc import Sequence

import psutil

from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc
from tests.e2e.tiers import SchedulerTier, Tier, Tiers
from tests.fakes.valkey import RealValkey

NUM_WORKERS = 3
# Longer than the time after which a process counts as lost.
FROZEN_S = 10.0


class Cluster:
    def __init__(self, tiers: Tiers, valkey: RealValkey) -> None:
        self._tiers = tiers
        self._valkey = valkey
        self._index = ("--prefix-index", valkey.url)
        self.schedulers = [tiers.scheduler(*self._index) for _ in range(2)]
        self._addresses = [scheduler.address for scheduler in self.schedulers]
        self.gateways = [tiers.gateway(self._addresses, *self._index) for _ in range(2)]
        self.workers = [self._start_worker(number) for number in range(NUM_WORKERS)]

    @property
    def tiers(self) -> Sequence[Tier]:
        return [*self.gateways, *self.schedulers, *self.workers]

    def _start_worker(self, number: int) -> Tier:
        return self._tiers.worker(self._addresses, "--worker-id", f"worker-{number}")

    async def wait_until_ready(self, index: int) -> None:
        await asyncio.to_thread(self.gateways[index].wait_until_ready)

    def kill_gateway(self, index: int) -> None:
        killed = self.gateways[index]
        killed.kill()
        self.gateways[index] = self._tiers.gateway(self._addresses, *self._index, port=killed.port)

    async def kill_worker(self, number: int) -> None:
        self.workers[number % NUM_WORKERS].kill()
        self.workers[number % NUM_WORKERS] = self._start_worker(number % NUM_WORKERS)

    async def freeze_worker(self, number: int) -> None:
        await _freeze(self.workers[number % NUM_WORKERS])

    async def kill_scheduler(self, number: int) -> None:
        index = number % len(self.schedulers)
        self.schedulers[index].kill()
        self.schedulers[index] = self._tiers.scheduler(*self._index, address=self._addresses[index])

    async def freeze_scheduler(self, number: int) -> None:
        await _freeze(self.schedulers[number % len(self.schedulers)])

    async def restart_redis(self, number: int) -> None:
        self._valkey.kill()
        await asyncio.sleep(number % 5)
        self._valkey.start()

    async def freeze_redis(self, number: int) -> None:
        with self._valkey.frozen():
            await asyncio.sleep(FROZEN_S)

    async def loads(self) -> list[inference_pb2.GetLoadResponse]:
        return [await _load(scheduler) for scheduler in self.schedulers]

    def describe_resources(self) -> str:
        return ", ".join(_described(tier) for tier in self.tiers)


async def _freeze(tier: Tier) -> None:
    tier.freeze()
    await asyncio.sleep(FROZEN_S)
    tier.thaw()


async def _load(scheduler: SchedulerTier) -> inference_pb2.GetLoadResponse:
    async with open_channel(scheduler.address, scheduler.security) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return await stub.GetLoad(inference_pb2.GetLoadRequest(), wait_for_ready=True, timeout=200)


def _described(tier: Tier) -> str:
    process = psutil.Process(tier.process.pid)
    kind = process.cmdline()[3]
    return f"{kind} {process.num_fds()} files {process.num_threads()} threads {process.memory_info().rss >> 20} MiB"
