"""The clients' requests during failures, and the check of their answers: every token of an undisturbed system, once, in order.

Either a few clients request one stream after the other, or requests arrive as in a trace.
"""

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bench.routing.workloads import TimedRequest, mooncake
from tests.chaos.doors import Doors
from tests.e2e.failover_streams import Asker
from tests.e2e.guided_streams import GUIDED
from tests.e2e.received import Answer

NUM_STREAMS = GUIDED.stop
NUM_ASKERS = 6
MAX_SAMPLES = 2
# The trace was recorded with a model of a hundred times the parameters. Answers are shortened less than prompts, so that they last
# until something fails.
TRACE_SCALE = 1 / 32
LONGER_ANSWERS = 4
MAX_LEN = 2048
# The default model's; other token ids of the trace are mapped into it.
VOCAB_SIZE = 49_152
MAX_UNDISTURBED = 8


class Traffic(Protocol):
    @property
    def num_answers(self) -> int:
        """Return the number of answers that were right."""

    @property
    def most_sequences(self) -> int:
        """Return the most sequences that a request has."""

    async def learn(self) -> str:
        """Record the answers of an undisturbed system, and return a description of them."""

    def begin(self) -> list[asyncio.Task[None]]:
        """Start the requests and return their tasks, which end after `end` or with an error that a client noticed."""

    def end(self) -> None:
        """Start no further request."""

    async def gets_on(self) -> None:
        """Wait until every request has received tokens that were computed after this call."""


class Streams:
    """Streams of all kinds, from clients that wait for one answer before they ask again."""

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
    """A trace that is compressed into `duration_s` and repeated. Requests do not wait for the answers of others."""

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
        """Wait until all open requests have ended and another one as well."""
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
    """Return a sample of the trace's requests at this rate, with its bursts and pauses, without requests that are too long."""
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
