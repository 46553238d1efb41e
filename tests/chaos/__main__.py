"""Failures of all kinds, one after the other, while clients ask for streams whose tokens are known. `make chaos`.

Prints what it does and, at the end, what it found. The exit status is 1 if a client noticed anything or something was left over.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pagoda.cli.fetch import fetch_model
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.settings import default_home
from tests.chaos.cluster import Cluster
from tests.e2e.failover_streams import Answer, Asker, Clients
from tests.e2e.tiers import Tiers
from tests.fakes.valkey import real_valkey

NUM_STREAMS = 32
NUM_ASKERS = 6
# How long it may take after a failure until every stream gets on.
RECOVERY_S = 120.0

Failure = Callable[[int], Coroutine[Any, Any, None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="make chaos")
    parser.add_argument("--duration", type=float, default=300.0, help="seconds (default: 300)")
    parser.add_argument("--seed", type=int, help="of the order of failures (default: another one each time)")
    arguments = parser.parse_args()
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    home = Path(os.environ.get("PAGODA_TEST_HOME") or default_home())
    fetch_model(home, DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as directory, real_valkey(Path(directory)) as valkey:
        with Tiers(home, Path(directory)) as tiers:
            sys.exit(asyncio.run(Chaos(Cluster(tiers, valkey), seed).run(arguments.duration)))


class Chaos:
    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._started_s = time.monotonic()
        self._done: Counter[str] = Counter()
        self._problems: list[str] = []
        self._say(f"seed {seed}")

    async def run(self, duration_s: float) -> int:
        """The exit status."""
        await asyncio.to_thread(self._cluster.gateway.wait_until_ready)
        async with Clients(self._cluster.gateway.url) as clients:
            undisturbed = await clients.ask_all(range(NUM_STREAMS))
            self._say(f"{NUM_STREAMS} streams are known; {self._cluster.describe_resources()}")
            await self._reign(clients, undisturbed, duration_s)
        await self._check_nothing_is_left()
        self._report()
        return 1 if self._problems else 0

    async def _reign(self, clients: Clients, undisturbed: list[Answer], duration_s: float) -> None:
        askers = [Asker(clients, undisturbed, self._chance) for _ in range(NUM_ASKERS)]
        asking = [asyncio.create_task(asker.run()) for asker in askers]
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s and not self._problems and not any(task.done() for task in asking):
            await self._fail_something()
            await self._wait_until_all_get_on(askers, asking)
        for asker in askers:
            asker.is_to_end = True
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        self._problems += [f"a client noticed: {outcome!r}" for outcome in outcomes if outcome is not None]
        self._done["streams checked"] = sum(asker.num_answers for asker in askers)

    async def _fail_something(self) -> None:
        cluster = self._cluster
        likelihoods: dict[Failure, int] = {
            cluster.kill_worker: 4,
            cluster.freeze_worker: 2,
            cluster.kill_scheduler: 2,
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

    async def _wait_until_all_get_on(self, askers: list[Asker], asking: list[asyncio.Task[None]]) -> None:
        """Or until a client has noticed something."""
        getting_on: asyncio.Future[Any] = asyncio.gather(*(asker.gets_on() for asker in askers))
        waited_for: list[asyncio.Future[Any]] = [getting_on, *asking]
        done, _ = await asyncio.wait(waited_for, timeout=RECOVERY_S, return_when=asyncio.FIRST_COMPLETED)
        getting_on.cancel()
        if not done:
            self._problems.append(f"not every stream got on within {RECOVERY_S:g} s")

    async def _check_nothing_is_left(self) -> None:
        """Everybody is given time to come back."""
        for _ in range(300):
            loads = await self._cluster.loads()
            num_workers = sum(len(load.workers) for load in loads)
            num_used = sum(worker.num_pages_used for load in loads for worker in load.workers)
            num_left = sum(load.num_running + load.num_waiting for load in loads)
            if num_workers == len(self._cluster.workers) and num_used == num_left == 0:
                return
            await asyncio.sleep(0.2)
        self._problems.append(f"{num_workers} workers, {num_used} pages used and {num_left} sequences are left")

    def _report(self) -> None:
        self._say(", ".join(f"{count} x {name}" for name, count in sorted(self._done.items())))
        self._say(f"samples that moved: {self._cluster.gateway.metric('pagoda_moved_samples_total'):g}")
        self._say(self._cluster.describe_resources())
        self._say("\n".join(self._problems) or "No client noticed anything, and nothing is left over.")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started_s:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
