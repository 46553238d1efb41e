"""Responses that are generated in the background: they continue when their client leaves, and can be followed and cancelled."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from enum import Enum

from gateway.errors import ErrorKind, GatewayError, unavailable
from gateway.http.drain import Drain
from gateway.http.streaming import named_event
from gateway.responses.generation import generate_or_fail, store_end
from gateway.responses.requests import BegunResponse
from pagoda.process.background import end_tasks

MAX_RUNNING = 1000
"""Maximum number of responses that one gateway generates in the background at the same time."""
MAX_KEPT = 256
MAX_KEPT_BYTES = 64 << 20
"""Bounds of the ended responses whose events can still be streamed."""


class Wish(Enum):
    """The reason why a run ends early."""

    FAIL = "The server shut down before the response was complete."
    CANCEL = "The client has cancelled the response."
    DELETE = "The client has deleted the response."


class BackgroundRun:
    """The generation of one response, and its events so far."""

    def __init__(self, begun: BegunResponse) -> None:
        self.begun = begun
        self.events = [named_event(event) for event in begun.reply.queue_events()]
        self.is_over = False
        self.num_kept_bytes = 0
        """Size of the events when the run ended."""
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "asyncio.Task[None]":
        self._task = asyncio.create_task(self._generate())
        return self._task

    async def end_early(self, wish: Wish) -> None:
        """End the generation, if it is not over."""
        if self._task is not None:
            await end_tasks(self._task)
        if self.is_over:
            return
        self.is_over = True
        reply = self.begun.reply
        if wish is Wish.CANCEL:
            reply.cancel()
        else:
            self.events.append(named_event(reply.fail(unavailable(wish.value))))
        self._wake()
        if wish is not Wish.DELETE:
            await store_end(self.begun)

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """Yield the events from number `start` on, until the last one."""
        while True:
            while start < len(self.events):
                yield self.events[start]
                start += 1
            if self.is_over:
                return
            await self._grown.wait()

    async def _generate(self) -> None:
        async with aclosing(generate_or_fail(self.begun)) as events:
            async for event in events:
                self.events.append(named_event(event))
                self._wake()
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


class BackgroundRuns:
    """The responses that this gateway generates in the background, and the latest ones that have ended."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._running: dict[tuple[str, str], BackgroundRun] = {}
        self._ended: OrderedDict[tuple[str, str], BackgroundRun] = OrderedDict()
        self._num_kept_bytes = 0

    async def start(self, begun: BegunResponse) -> BackgroundRun:
        """Store the response as queued, and start to generate it."""
        if len(self._running) >= MAX_RUNNING:
            message = f"This server already generates {MAX_RUNNING} responses in the background."
            raise GatewayError(ErrorKind.OVERLOADED, message, retry_after_s=1.0)
        run = BackgroundRun(begun)
        name = (begun.stored.owner, begun.reply.id)
        with ExitStack() as stack:
            # A shutdown waits for the run as for a request.
            stack.enter_context(self._drain.count_request())
            await begun.store()
            stack.callback(self._keep, name, run)
            ended = stack.pop_all()
        self._running[name] = run
        run.start().add_done_callback(lambda _: ended.close())
        return run

    def find(self, owner: str, response_id: str) -> BackgroundRun | None:
        """Return the run of a response, if it is running here or its events are still kept."""
        name = (owner, response_id)
        return self._running.get(name) or self._ended.get(name)

    async def delete(self, owner: str, response_id: str) -> None:
        """End the run of a response, if there is one, and forget its events."""
        if (run := self.find(owner, response_id)) is not None:
            await run.end_early(Wish.DELETE)
            self._forget((owner, response_id))

    async def close(self) -> None:
        """End all runs; their responses fail."""
        await asyncio.gather(*(run.end_early(Wish.FAIL) for run in self._running.values()))

    def _keep(self, name: tuple[str, str], run: BackgroundRun) -> None:
        """Keep the events of an ended run for a while, within the bounds."""
        del self._running[name]
        self._ended[name] = run
        run.num_kept_bytes = sum(map(len, run.events))
        self._num_kept_bytes += run.num_kept_bytes
        while len(self._ended) > MAX_KEPT or self._num_kept_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._ended)))

    def _forget(self, name: tuple[str, str]) -> None:
        if (run := self._ended.pop(name, None)) is not None:
            self._num_kept_bytes -= run.num_kept_bytes
