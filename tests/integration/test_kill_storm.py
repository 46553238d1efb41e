"""A test with random failures of workers while streams run: every stream gets its tokens, and nothing is left."""

import asyncio
import contextlib
import gc
import random
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from pagoda.rpc.grpc_channel import open_channel
from pagoda.wire.step_result import StepResult
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.engine import FakeEngine, continuation
from tests.fakes.executors import EXECUTORS, Wrap, max_new_tokens
from tests.fakes.scheduler_process import scheduler
from tests.fakes.tcp_proxy import TCPProxy, tcp_proxy
from tests.fakes.waiting import until
from tests.fakes.worker import fake_worker_link
from worker.steps.engine import BegunStep

NUM_FAILURES = {"depth 1": 100, "late": 40, "several tokens": 40, "late, several tokens": 40}
"""Number of failures for each kind of executor."""
NUM_WORKERS = 3
NUM_STREAMS = 6
NUM_PAGES = 60
# More steps than a worker can run before its scheduler receives the first result: two steps and a lease. A stream that received the
# tokens of this many since the last failure is no suspect in the next one.
NUM_STEPS_BETWEEN = 16


class UncertainEngine(FakeEngine):
    """An engine whose next step raises MemoryError if `fails` is set."""

    fails = False

    def __init__(self, wrap: Wrap, sizes: set[int]) -> None:
        """Create the engine; `sizes` collects the numbers of tokens that steps return for a sequence."""
        super().__init__(num_pages=NUM_PAGES, wrap=wrap)
        self._sizes = sizes

    def finish_step(self, begun: BegunStep) -> StepResult:
        if self.fails:
            self.fails = False
            raise MemoryError
        result = super().finish_step(begun)
        self._sizes.update(len(sampled.token_ids) for sampled in result.sampled)
        return result


class Worker:
    """A worker that is killed (its task is cancelled), loses its connection or runs out of memory, and comes back."""

    def __init__(self, network: TCPProxy, name: str, wrap: Wrap) -> None:
        self._network = network
        self._name = name
        self._wrap = wrap
        self.sizes = set[int]()
        self.start()

    def start(self) -> None:
        self._engine = UncertainEngine(self._wrap, self.sizes)
        link = fake_worker_link(self._network.address, num_pages=NUM_PAGES, worker_id=self._name, engine=self._engine)
        self._running = asyncio.create_task(link.run())

    async def kill(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def fail(self, chance: random.Random) -> None:
        kind = chance.random()
        # The first two kinds are rare: a worker that attaches again and again backs off longer each time.
        if kind < 0.05:
            self._engine.fails = True
        elif kind < 0.25:
            await self._network.break_off()
        else:
            await self.kill()
            self.start()


class Streams:
    """Concurrent series of streams whose tokens are checked, with their progress since the last failure."""

    def __init__(self, stub: Any, num_tokens_between: int) -> None:
        self._stub = stub
        self._num_tokens_between = num_tokens_between
        self._num_tokens = [0] * NUM_STREAMS
        self._changed = asyncio.Event()
        self.num_finished = 0
        self.is_to_end = False

    async def run(self, place: int) -> None:
        chance = random.Random(place)
        while not self.is_to_end:
            prompt = [chance.randrange(256) for _ in range(chance.randrange(1, 60))]
            max_tokens = chance.randrange(1, 120)
            request = inference_pb2.GenerateRequest(
                prompt_token_ids=prompt,
                sampling=types_pb2.SamplingParams(
                    temperature=0.0,
                    max_tokens=max_tokens,
                    ignore_eos=True,
                    # Steps bring several tokens only for constrained sequences.
                    constraint=IDLE_CONSTRAINT.to_proto() if place % 2 else None,
                ),
            )
            received: list[int] = []
            async for event in self._stub.Generate(request):
                assert event.tokens.sequence_number == len(received) or not event.HasField("tokens")
                received += event.tokens.token_ids
                self._num_tokens[place] += len(event.tokens.token_ids)
                self._changed.set()
            assert received == continuation(prompt, max_tokens)
            self.num_finished += 1

    async def get_on(self) -> None:
        self._num_tokens = [0] * NUM_STREAMS
        while min(self._num_tokens) < self._num_tokens_between:
            self._changed.clear()
            await self._changed.wait()


@pytest.mark.parametrize(("executor", "num_failures"), NUM_FAILURES.items())
async def test_failures_leave_nothing_behind(tmp_path: Path, executor: str, num_failures: int) -> None:
    # An open channel keeps gRPC's own thread and files for the whole test.
    async with open_channel(f"unix:{tmp_path}/nobody.sock"):
        await storm(tmp_path, EXECUTORS[executor], num_failures=2)
        before = resources()
        await storm(tmp_path, EXECUTORS[executor], num_failures)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(200):
                await until(lambda: resources() == before)
        assert resources() == before


async def storm(directory: Path, wrap: Wrap, num_failures: int) -> None:
    chance = random.Random(3)
    async with AsyncExitStack() as stack:
        address, loop = await stack.enter_async_context(scheduler(directory))
        channel = await stack.enter_async_context(open_channel(address))
        socket = address.replace("unix:", "unix://")
        networks = [await stack.enter_async_context(tcp_proxy(socket)) for _ in range(NUM_WORKERS)]
        workers = [Worker(network, f"w{number}", wrap) for number, network in enumerate(networks)]
        await until(lambda: len(loop.workers) == NUM_WORKERS)
        streams = Streams(inference_pb2_grpc.InferenceServiceStub(channel), NUM_STEPS_BETWEEN * max_new_tokens(wrap))
        async with asyncio.TaskGroup() as group:
            for place in range(NUM_STREAMS):
                group.create_task(streams.run(place))
            for _ in range(num_failures):
                await streams.get_on()
                await until(lambda: len(loop.workers) > 1)
                await chance.choice(workers).fail(chance)
            streams.is_to_end = True
        assert streams.num_finished > NUM_STREAMS
        await until(lambda: len(loop.workers) == NUM_WORKERS and not any(w.is_busy for w in loop.workers.values()))
        assert not loop.waiting and not loop.num_running
        for worker in loop.workers.values():
            worker.pool.check_invariants()
            assert worker.pool.num_used == 0
        for each in workers:
            await each.kill()
        assert set[int]().union(*(each.sizes for each in workers)) == set(range(1, max_new_tokens(wrap) + 1))


def resources() -> dict[str, int]:
    """Return the process's resources, without garbage and the event loop's own threads, which it keeps."""
    gc.collect()
    return {
        "file descriptors": psutil.Process().num_fds(),
        "tasks": len(asyncio.all_tasks()),
        "threads": sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate()),
        "processes": len(psutil.Process().children(recursive=True)),
    }
