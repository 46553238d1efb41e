"""A series of failures of all kinds while clients request streams whose tokens are known. `make chaos` runs it.

It prints each failure and, at the end, its findings. The exit status is 1 if something was left over, or if a client noticed
anything but the death of its own gateway.
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pagoda.cli.fetch import fetch_model
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.store import ModelStore
from pagoda.rpc.sockets import default_home
from protos.v1 import inference_pb2
from tests.chaos.cluster import Cluster
from tests.chaos.doors import CONNECTION_ERRORS, Door, Doors
from tests.chaos.traffic import Replay, Streams, Traffic
from tests.e2e.received import MODEL
from tests.e2e.tiers import Tiers
from tests.fakes.valkey import real_valkey

# Maximum number of seconds after a failure until every stream proceeds and the requests of a dead gateway are gone.
RECOVERY_S = 120.0
# Number of samples of a request that dies with its gateway: more than all others have together.
NUM_ABANDONED = 32

Loads = list[inference_pb2.GetLoadResponse]
Failure = Callable[[int], Coroutine[Any, Any, None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="make chaos")
    parser.add_argument("--duration", type=float, default=300.0, help="seconds (default: 300)")
    parser.add_argument("--seed", type=int, help="seed of the order of failures (default: random)")
    parser.add_argument(
        "--trace", type=Path, help="a Mooncake trace with the times of requests (default: six busy clients)"
    )
    parser.add_argument(
        "--rate", type=float, default=0.5, help="requests of the trace per second, on average (default: 0.5)"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="a GGUF file to serve under the default model's name, such as a mixture of experts with its vocabulary "
        "(python -m bench write-model)",
    )
    arguments = parser.parse_args()
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    home = Path(os.environ.get("PAGODA_TEST_HOME") or default_home())
    fetch_model(home, DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as directory, real_valkey(Path(directory)) as valkey:
        if arguments.weights is not None:
            home = home_with(arguments.weights, home, Path(directory) / "home")
        with Tiers(home, Path(directory)) as tiers:
            sys.exit(asyncio.run(run(Cluster(tiers, valkey), random.Random(seed), arguments)))


def home_with(weights: Path, home: Path, directory: Path) -> Path:
    """Make a home whose default model has these weights, and return it."""
    model = ModelStore(home).get(DEFAULT_MODEL)
    assert model.manifest is not None, "a pulled model has a manifest"
    copied = directory / model.manifest.parent.relative_to(home)
    copied.mkdir(parents=True)
    shutil.copy(model.manifest, copied)
    (copied / model.path.name).symlink_to(weights.absolute())
    return directory


async def run(cluster: Cluster, chance: random.Random, arguments: argparse.Namespace) -> int:
    """Run the test with the arguments and return the exit status."""
    async with Doors([gateway.url for gateway in cluster.gateways], chance) as doors:
        traffic: Traffic = Streams(doors, chance)
        if arguments.trace is not None:
            traffic = Replay(doors, arguments.trace, duration_s=arguments.duration, per_s=arguments.rate)
        return await Chaos(cluster, doors, traffic, chance).run(arguments.duration)


class Chaos:
    def __init__(self, cluster: Cluster, doors: Doors, traffic: Traffic, chance: random.Random) -> None:
        self._cluster = cluster
        self._doors = doors
        self._traffic = traffic
        self._chance = chance
        self._started_s = time.monotonic()
        self._done: Counter[str] = Counter()
        self._num_moved = 0.0
        self._problems: list[str] = []

    async def run(self, duration_s: float) -> int:
        """Cause failures for this long and return the exit status."""
        for index in range(len(self._cluster.gateways)):
            await self._cluster.wait_until_ready(index)
        self._say(await self._traffic.learn())
        self._say(self._cluster.describe_resources())
        await self._reign(duration_s)
        await self._check_nothing_is_left()
        self._report()
        return 1 if self._problems else 0

    async def _reign(self, duration_s: float) -> None:
        asking = self._traffic.begin()
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s and not self._problems and not any(task.done() for task in asking):
            await self._fail_something()
            await self._wait_until_all_get_on(asking)
        self._traffic.end()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        self._problems += [f"a client noticed: {outcome!r}" for outcome in outcomes if outcome is not None]
        self._done["streams checked"] = self._traffic.num_answers
        self._done["connections that broke with their gateway"] = self._doors.num_broken

    async def _fail_something(self) -> None:
        cluster = self._cluster
        likelihoods: dict[Failure, int] = {
            cluster.kill_worker: 4,
            cluster.freeze_worker: 2,
            cluster.kill_scheduler: 2,
            self.kill_gateway: 2,
            cluster.freeze_scheduler: 1,
            cluster.restart_redis: 1,
            cluster.freeze_redis: 1,
        }
        (failure,) = self._chance.choices(list(likelihoods), list(likelihoods.values()))
        number = self._chance.randrange(6)
        name = getattr(failure, "__name__", "").replace("_", " ")
        self._say(name)
        self._done[name] += 1
        await failure(number)

    async def kill_gateway(self, number: int) -> None:
        """Kill a gateway. Its requests must end at the schedulers; those of the other gateway must continue."""
        index = number % len(self._doors.doors)
        door = self._doors.doors[index]
        abandoned = asyncio.create_task(self._abandon(door))
        await self._wait_for("the long request", lambda loads: _num_sequences(loads) >= NUM_ABANDONED)
        self._num_moved += self._cluster.gateways[index].metric("pagoda_moved_samples_total")
        door.close()
        self._cluster.kill_gateway(index)
        await abandoned
        await self._wait_for("the dead gateway's sequences to end", self._are_only_those_of_clients)
        await self._cluster.wait_until_ready(index)
        door.is_open = True

    def _are_only_those_of_clients(self, loads: Loads) -> bool:
        return _num_sequences(loads) <= self._traffic.most_sequences * self._doors.num_open

    async def _abandon(self, door: Door) -> None:
        """Send a long request, which is running when its gateway dies."""
        try:
            await door.clients.openai.completions.create(
                model=MODEL, prompt="Once", n=NUM_ABANDONED, max_tokens=1500, extra_body={"ignore_eos": True}
            )
        except CONNECTION_ERRORS:
            return
        self._problems.append("a killed gateway answered")

    async def _wait_for(self, what: str, holds: Callable[[Loads], bool]) -> None:
        try:
            async with asyncio.timeout(RECOVERY_S):
                while not holds(await self._cluster.loads()):  # noqa: ASYNC110  # other processes make it so
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._problems.append(f"after {RECOVERY_S:g} s, still waiting for {what}")

    async def _wait_until_all_get_on(self, asking: list[asyncio.Task[None]]) -> None:
        """Wait until every stream has proceeded or a client has noticed something."""
        getting_on = asyncio.create_task(self._traffic.gets_on())
        waited_for: list[asyncio.Future[Any]] = [getting_on, *asking]
        done, _ = await asyncio.wait(waited_for, timeout=RECOVERY_S, return_when=asyncio.FIRST_COMPLETED)
        getting_on.cancel()
        if not done:
            self._problems.append(f"after {RECOVERY_S:g} s, not every stream has proceeded")

    async def _check_nothing_is_left(self) -> None:
        """Check that all workers are back and no request is left, after a while."""
        loads: Loads = []
        for _ in range(300):
            loads = await self._cluster.loads()
            if _num_workers(loads) == len(self._cluster.workers) and _num_pages(loads) == _num_sequences(loads) == 0:
                return
            await asyncio.sleep(0.2)
        found = f"{_num_workers(loads)} workers, {_num_pages(loads)} pages used and {_num_sequences(loads)} sequences"
        self._problems.append(f"not everything ended or came back: {found}")

    def _report(self) -> None:
        self._say(", ".join(f"{count} x {name}" for name, count in sorted(self._done.items())))
        moved = (gateway.metric("pagoda_moved_samples_total") for gateway in self._cluster.gateways)
        self._say(f"samples that moved: {self._num_moved + sum(moved):g}")
        self._say(self._cluster.describe_resources())
        self._say("\n".join(self._problems) or "No client noticed a failure, and nothing is left over.")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started_s:6.1f} s  {text}", flush=True)


def _num_workers(loads: Loads) -> int:
    return sum(len(load.workers) for load in loads)


def _num_pages(loads: Loads) -> int:
    """Return the number of pages that sequences use."""
    return sum(worker.num_pages_used for load in loads for worker in load.workers)


def _num_sequences(loads: Loads) -> int:
    return sum(load.num_running + load.num_waiting for load in loads)


if __name__ == "__main__":
    main()
