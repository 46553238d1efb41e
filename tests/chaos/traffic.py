"""What clients ask while things fail, and whether they got what an undisturbed system says: every token, once, in order.

Either a few clients ask for one stream after the other, or a trace says who asks when.
"""

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bench.routing.workloads import TimedRequest, mooncake
from tests.chaos.doors import Doors
from tests.e2e.failover_streams import Answer, Asker

NUM_STREAMS = 32
NUM_ASKERS = 6
MAX_SAMPLES = 2
# The trace's lengths are of a model with a hundred times the parameters. Answers are shortened less, or they would be over before
# anything fails.
TRACE_SCALE = 1 / 32
LONGER_ANSWERS = 4
MAX_LEN = 2048
# Of the default model: what is drawn from more than these is folded into them.
VOCAB_SIZE = 49_152
MAX_UNDISTURBED = 8


class Traffic(Protocol):
    @property
    def num_answers(self) -> int:
        """That were right."""

    @property
    def most_sequences(self) -> int:
        """That a request may have."""

    async def learn(self) -> str:
        """Ask undisturbed. Returns what is known then."""

    def begin(self) -> list[asyncio.Task[None]]:
        """Tasks that end when they are told to, or with what a client noticed."""

    def end(self) -> None:
        """No further request."""

    async def gets_on(self) -> None:
        """Every request, further than a worker can have been before this call."""


class Streams:
    """Of all kinds, from clients that wait for one answer before they ask again."""

    most_sequences: int = MAX_SAMPLES

    def __init__(self, doors: Doors, chance: random.Random) -> None:
        self._doors = doors
        self._chance = chance
        self._askers: list[Asker] = []

    @property
    def num_answers(self) -> int:
        return sum(asker.num_answers for asker in self._askers)

    async def learn(self) -> str:
        undisturbed = await asyncio.gather(*(self._doors.ask(number) for number in range(NUM_STREAMS)))
        self._askers = [Asker(self._doors, undisturbed, self._chance) for _ in range(NUM_ASKERS)]
        return f"{NUM_STREAMS} streams are known"

    def begin(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(asker.run()) for asker in self._askers]

    def end(self) -> None:
        for asker in self._askers:
            asker.is_to_end = True

    async def gets_on(self) -> None:
        await asyncio.gather(*(asker.gets_on() for asker in self._askers))


class Replay:
    """A trace, again and again, compressed into `duration_s`. Requests come when they come, however long others take."""

    most_sequences: int = 1

    def __init__(self, doors: Doors, trace: Path, *, duration_s: float, per_s: float) -> None:
        self.num_answers = 0
        self._doors = doors
        self._requests = compressed(trace, duration_s=duration_s, per_s=per_s)
        self._undisturbed: list[Answer] = []
        self._answering: set[asyncio.Task[None]] = set()
        self._has_answered = asyncio.Event()
        self._ending = asyncio.Event()

    async def learn(self) -> str:
        turns = asyncio.Semaphore(MAX_UNDISTURBED)

        async def ask(request: TimedRequest) -> Answer:
            async with turns:
                return await self._ask(request)

        self._undisturbed = await asyncio.gather(*map(ask, self._requests))
        num_tokens = [sum(len(request.prompt) for request in self._requests), sum(map(_num_tokens, self._undisturbed))]
        return f"{len(self._requests)} requests with {num_tokens[0]} tokens in and {num_tokens[1]} out are known"

    def begin(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._run())]

    def end(self) -> None:
        self._ending.set()

    async def gets_on(self) -> None:
        """Those that are open end, and one more."""
        self._has_answered.clear()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await self._has_answered.wait()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as answering:
            while not self._ending.is_set():
                started_s = time.monotonic()
                for request, undisturbed in zip(self._requests, self._undisturbed, strict=True):
                    if await self._ends_within(started_s + request.arrival_s - time.monotonic()):
                        break
                    task = answering.create_task(self._check(request, undisturbed))
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)

    async def _ends_within(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                return await self._ending.wait()
        except TimeoutError:
            return False

    async def _check(self, request: TimedRequest, undisturbed: Answer) -> None:
        assert await self._ask(request) == undisturbed
        self.num_answers += 1
        self._has_answered.set()

    async def _ask(self, request: TimedRequest) -> Answer:
        return await self._doors.through_one(lambda clients: clients.complete(request.prompt, request.max_tokens))


def compressed(trace: Path, *, duration_s: float, per_s: float) -> list[TimedRequest]:
    """As many requests of the trace as come in that time, its crowds and lulls kept; those that are too long are left out."""
    whole = mooncake(trace, scale=TRACE_SCALE, speed=1.0).requests
    fitting = [each for each in whole if len(each.prompt) + each.max_tokens * LONGER_ANSWERS <= MAX_LEN]
    every = max(1, round(len(fitting) / (duration_s * per_s)))
    speed = whole[-1].arrival_s / duration_s
    return [
        replace(
            each,
            arrival_s=each.arrival_s / speed,
            prompt=[token % VOCAB_SIZE for token in each.prompt],
            max_tokens=each.max_tokens * LONGER_ANSWERS,
        )
        for each in fitting[::every]
    ]


def _num_tokens(answer: Answer) -> int:
    return sum(len(sample.token_ids) for sample in answer.values())
