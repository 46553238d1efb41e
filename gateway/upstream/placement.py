"""The placement of requests: one scheduler at a time serves each, until its end.

A request goes to the scheduler that can compute it soonest (scheduler_choice.py). If that scheduler refuses it, is lost or stops
answering, the request resumes at another one, or waits until one is back. If none is back in time, it ends with an error.
"""

import asyncio
import contextlib
import logging
from collections import Counter

from gateway.errors import ErrorKind, GatewayError, unavailable
from gateway.upstream.open_request import OpenRequest
from gateway.upstream.prefix_hints import NO_HINT, PrefixHint, PrefixHints
from gateway.upstream.scheduler_choice import AfterRefusal, Candidate, after_refusal, choose
from gateway.upstream.scheduler_client import SchedulerClient
from gateway.upstream.schedulers import Schedulers
from pagoda.wire.inference_request import InferenceRequest

# A request with more unread events per sample is cancelled. This is about a minute of decoding at 30 tokens per second.
MAX_BUFFERED_EVENTS = 2048
RETRY_DELAY_S = 0.2

logger = logging.getLogger(__name__)


class Placement:
    """A `SchedulerListener` that places requests. It may be created outside the event loop, and is started inside it."""

    def __init__(
        self, schedulers: Schedulers, hints: PrefixHints, *, max_buffered_events: int = MAX_BUFFERED_EVENTS
    ) -> None:
        self.num_retried: Counter[str] = Counter()
        """Number of requests, by address, that the scheduler refused and that were then sent to another one."""
        self.num_displaced: Counter[str] = Counter()
        """Number of requests, by address, that lost their place on the scheduler, to resume on another one or after an outage."""
        self._schedulers = schedulers
        self._hints = hints
        self._max_buffered_events = max_buffered_events
        self._changed = asyncio.Event()
        self._placing: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def start(self) -> None:
        for client in self._schedulers.clients:
            await client.start(self)

    async def close(self) -> None:
        self._is_closing = True
        for client in self._schedulers.clients:
            await client.close()
        self.on_change()
        await asyncio.gather(*self._placing)
        await self._hints.close()

    async def open_request(self, request: InferenceRequest) -> OpenRequest:
        """Send the request to a scheduler and return it. If none accepts it, iterating over it raises the error."""
        opened = OpenRequest(request, max_buffered_events=self._max_buffered_events)
        await self._place(opened, self._unreachable())
        return opened

    # ---- reactions to schedulers

    def on_lost_session(self, client: SchedulerClient, requests: list[OpenRequest]) -> None:
        for opened in requests:
            self._displace(client, opened)
            self._place_again(opened, unavailable("The connection to the scheduler was lost."))

    def on_stranded_requests(self, client: SchedulerClient, requests: list[OpenRequest]) -> None:
        """Move the requests to other schedulers that are ready; without one, leave them where they are."""
        for opened in requests:
            if self._is_another_ready(opened):
                client.withdraw_request(opened)
                self._displace(client, opened)
                self._place_again(opened, unavailable("The scheduler has lost its workers."))

    def on_refused_request(self, client: SchedulerClient, opened: OpenRequest, error: GatewayError) -> None:
        if opened.has_begun:
            self._displace(client, opened)
        opened.refused_by.add(client.address)
        verdict = after_refusal(
            error.kind,
            had_place=opened.waits_until_s is not None,
            num_refusals=len(opened.refused_by),
            is_another_ready=self._is_another_ready(opened),
            is_recovering=_now_s() < self._waits_until_s(opened),
        )
        if verdict is AfterRefusal.FAIL:
            opened.fail_request(error)
            return
        self.num_retried[client.address] += verdict is AfterRefusal.ELSEWHERE
        self._place_again(opened, error)

    def on_change(self) -> None:
        self._changed.set()
        self._changed.clear()

    def _displace(self, client: SchedulerClient, opened: OpenRequest) -> None:
        self.num_displaced[client.address] += 1
        opened.waits_until_s = _now_s() + self._schedulers.outage_grace_s

    def _place_again(self, opened: OpenRequest, error: GatewayError) -> None:
        task = asyncio.create_task(self._place_or_fail(opened, error))
        self._placing.add(task)
        task.add_done_callback(self._placing.discard)

    async def _place_or_fail(self, opened: OpenRequest, error: GatewayError) -> None:
        """Place the request. Its consumer is notified of any failure."""
        try:
            await self._place(opened, error)
        except Exception:
            logger.exception("request cannot be placed again", extra={"request": opened.name})
            opened.fail_request(GatewayError(ErrorKind.INTERNAL, "Internal server error."))

    # ---- placing

    async def _place(self, opened: OpenRequest, error: GatewayError) -> None:
        """Send the request to the best scheduler as soon as there is one. Without one in time, end it with `error`."""
        while not opened.is_closed:
            hint = await self._look_up(opened)
            if (client := self._best(opened, hint)) is not None:
                self._send_to(opened, client, hint)
                return
            left_s = self._waits_until_s(opened) - _now_s()
            if left_s <= 0 or self._is_closing:
                opened.fail_request(_overdue(opened) or error)
                return
            await self._wait(min(left_s, RETRY_DELAY_S) if opened.refused_by else left_s)
            opened.refused_by.clear()

    async def _look_up(self, opened: OpenRequest) -> PrefixHint:
        """Return which schedulers have cached the prompt. With fewer than two to choose from, skip the look-up."""
        model = opened.request.model
        connected = [client for client in self._schedulers.clients if client.is_connected]
        infos = [client.models[model] for client in connected if model in client.models]
        if len(infos) < 2:
            return NO_HINT
        hint = await self._hints.look_up_prefix(opened.request, infos[0], opened.prompt_blocks)
        opened.prompt_blocks = hint.blocks
        return hint

    def _best(self, opened: OpenRequest, hint: PrefixHint) -> SchedulerClient | None:
        if opened.is_closed:
            return None
        candidates = self._candidates(opened, hint)
        if opened.refused_by:
            # A scheduler that is not ready would only refuse it again.
            candidates = [each for each in candidates if each.is_ready]
        best = choose(candidates, len(opened.request.prompt_token_ids))
        clients = self._schedulers.clients
        return None if best is None else next(client for client in clients if client.address == best.address)

    def _candidates(self, opened: OpenRequest, hint: PrefixHint) -> list[Candidate]:
        return [
            _candidate(client, opened.request.model, hint)
            for client in self._schedulers.clients
            if client.is_connected and client.address not in opened.refused_by
        ]

    def _is_another_ready(self, opened: OpenRequest) -> bool:
        """Return True if a scheduler that has not refused the request is ready. One that has lost its workers is not."""
        return any(each.is_ready for each in self._candidates(opened, NO_HINT))

    def _send_to(self, opened: OpenRequest, client: SchedulerClient, hint: PrefixHint) -> None:
        num_cached_tokens = hint.num_cached_tokens.get(client.address, 0)
        self._hints.remember_sent(hint, client.address)
        client.send_request(opened, len(opened.request.prompt_token_ids) - num_cached_tokens)

    def _waits_until_s(self, opened: OpenRequest) -> float:
        """Return the latest time to find a scheduler for the request, at most its own deadline."""
        until_s = self._schedulers.recover_until_s if opened.waits_until_s is None else opened.waits_until_s
        return until_s if opened.deadline_s is None else min(until_s, opened.deadline_s)

    async def _wait(self, timeout_s: float) -> None:
        """Wait until a scheduler changes, or until the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _unreachable(self) -> GatewayError:
        addresses = [client.address for client in self._schedulers.clients]
        if len(addresses) == 1:
            return unavailable(f"The scheduler at {addresses[0]} is not reachable.")
        return unavailable(f"None of the schedulers is reachable: {', '.join(addresses)}.")


def _candidate(client: SchedulerClient, model: str, hint: PrefixHint) -> Candidate:
    info = client.models.get(model)
    return Candidate(
        address=client.address,
        is_ready=client.problem is None and info is not None,
        num_workers=0 if info is None else info.num_workers + info.num_unloaded_workers,
        num_cached_tokens=hint.num_cached_tokens.get(client.address, 0),
        num_pending_tokens=client.num_pending_tokens,
        num_sequences=client.num_sequences,
    )


def _overdue(opened: OpenRequest) -> GatewayError | None:
    if opened.deadline_s is None or _now_s() < opened.deadline_s:
        return None
    deadline = f"the request's deadline of {opened.request.timeout_s:g} s passed"
    return GatewayError(ErrorKind.DEADLINE_EXCEEDED, deadline)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
