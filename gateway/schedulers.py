"""All schedulers as the rest of the gateway sees them: one thing that takes requests and serves them to their end.

Each request is at one scheduler at a time. Who has cached its prompt and has little to do gets it (scheduler_choice.py); if that
one refuses it, is lost or falls silent, it goes on at another one where it had come to, or waits for one to come back. Only when
none does in time, it ends with an error. Knows nothing about gRPC, text and HTTP.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from gateway.errors import ErrorKind, GatewayError, unavailable
from gateway.inference import InferenceRequest, Load, ModelInfo
from gateway.joined_answers import join_models, sum_loads
from gateway.open_request import OpenRequest
from gateway.prefix_hints import NO_HINT, PrefixHint, PrefixHints
from gateway.scheduler_choice import AfterRefusal, Candidate, after_refusal, choose
from gateway.scheduler_client import SchedulerClient
from pagoda.grpc_channel import LOCAL_ONLY
from pagoda.transport_security import TransportSecurity

logger = logging.getLogger(__name__)

# A client whose unread events outgrow this is cancelled: about a minute of decoding at 30 tokens a second.
MAX_BUFFERED_EVENTS = 2048
RETRY_DELAY_S = 0.2
# Listings do not wait any longer for a scheduler that may be about to be found silent; where there is no other, for its return.
ANSWER_LIMIT_S, RETURN_LIMIT_S = 0.5, 5.0

T = TypeVar("T")


class Schedulers:
    """A `SessionListener`. Made by the process, started inside its event loop."""

    def __init__(
        self,
        addresses: Sequence[str],
        hints: PrefixHints,
        *,
        silence_s: float,
        outage_grace_s: float,
        max_buffered_events: int = MAX_BUFFERED_EVENTS,
        security: TransportSecurity = LOCAL_ONLY,
    ) -> None:
        """Requests survive an outage of `outage_grace_s`."""
        self.clients = tuple(
            SchedulerClient(address, self, silence_s=silence_s, security=security) for address in addresses
        )
        self.num_retried: Counter[str] = Counter()
        """By address: requests that were refused there, and that another one was asked to take."""
        self.num_displaced: Counter[str] = Counter()
        """By address: requests that lost their place there, to go on elsewhere or after an outage."""
        self._hints = hints
        self._outage_grace_s = outage_grace_s
        self._max_buffered_events = max_buffered_events
        self._recovers_until_s = 0.0
        """By the event loop's clock: so long a scheduler that was lost or drains may come back, and its workers to it."""
        self._changed = asyncio.Event()
        self._placing: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def start(self) -> None:
        for client in self.clients:
            await client.start()

    async def close(self) -> None:
        self._is_closing = True
        for client in self.clients:
            await client.close()
        self.changed()
        await asyncio.gather(*self._placing)
        await self._hints.close()

    @property
    def problem(self) -> str | None:
        """Why no request can be sent now; None when all is well."""
        problems = [client.problem for client in self.clients]
        return None if None in problems else "; ".join(filter(None, problems))

    @property
    def is_recovering(self) -> bool:
        """What is missing now may soon be back."""
        return _now_s() < self._recovers_until_s

    # ---- requests

    async def open(self, request: InferenceRequest) -> OpenRequest:
        """Returns once a scheduler has it. If none takes it, that is its one error."""
        opened = OpenRequest(request, max_buffered_events=self._max_buffered_events)
        await self._place(opened, self._unreachable())
        return opened

    def lost(self, client: SchedulerClient, requests: list[OpenRequest]) -> None:
        self._recovers_until_s = _now_s() + self._outage_grace_s
        for opened in requests:
            self._displace(client, opened)
            self._place_again(opened, unavailable("The connection to the scheduler was lost."))

    def stopped_serving(self, client: SchedulerClient) -> None:
        self._recovers_until_s = _now_s() + self._outage_grace_s

    def stranded(self, client: SchedulerClient, requests: list[OpenRequest]) -> None:
        """They stay, unless another one would compute them."""
        for opened in requests:
            if any(each.is_ready for each in self._candidates(opened, NO_HINT)):
                client.withdraw(opened)
                self._displace(client, opened)
                self._place_again(opened, unavailable("The scheduler has lost its workers."))

    def refused(self, client: SchedulerClient, opened: OpenRequest, error: GatewayError) -> None:
        if opened.has_begun:
            self._displace(client, opened)
        opened.refused_by.add(client.address)
        verdict = after_refusal(
            error.kind,
            had_place=opened.waits_until_s is not None,
            num_refusals=len(opened.refused_by),
            is_another_ready=any(each.is_ready for each in self._candidates(opened, NO_HINT)),
            is_recovering=_now_s() < self._waits_until_s(opened),
        )
        if verdict is AfterRefusal.FAIL:
            opened.fail(error)
            return
        self.num_retried[client.address] += verdict is AfterRefusal.ELSEWHERE
        self._place_again(opened, error)

    def changed(self) -> None:
        self._changed.set()
        self._changed.clear()

    def _displace(self, client: SchedulerClient, opened: OpenRequest) -> None:
        self.num_displaced[client.address] += 1
        opened.waits_until_s = _now_s() + self._outage_grace_s

    def _place_again(self, opened: OpenRequest, error: GatewayError) -> None:
        task = asyncio.create_task(self._place(opened, error))
        self._placing.add(task)
        task.add_done_callback(self._placing.discard)

    async def _place(self, opened: OpenRequest, error: GatewayError) -> None:
        """At the best scheduler, as soon as there is one; if there is none in time, it ends with `error`."""
        while not opened.is_closed:
            hint = await self._look_up(opened)
            if (client := self._best(opened, hint)) is not None:
                self._give(opened, client, hint)
                return
            left_s = self._waits_until_s(opened) - _now_s()
            if left_s <= 0 or self._is_closing:
                opened.fail(_overdue(opened) or error)
                return
            await self._wait(min(left_s, RETRY_DELAY_S) if opened.refused_by else left_s)
            opened.refused_by.clear()

    async def _look_up(self, opened: OpenRequest) -> PrefixHint:
        """Nothing is asked where there is no choice."""
        model = opened.request.model
        infos = [client.models[model] for client in self.clients if client.is_connected and model in client.models]
        return await self._hints.look_up(opened.request, infos[0]) if len(infos) > 1 else NO_HINT

    def _best(self, opened: OpenRequest, hint: PrefixHint) -> SchedulerClient | None:
        if opened.is_closed:
            return None
        candidates = self._candidates(opened, hint)
        if opened.refused_by:
            # One that is not ready has nothing better to say than who refused it already.
            candidates = [each for each in candidates if each.is_ready]
        best = choose(candidates, len(opened.request.prompt_token_ids))
        return None if best is None else next(client for client in self.clients if client.address == best.address)

    def _candidates(self, opened: OpenRequest, hint: PrefixHint) -> list[Candidate]:
        clients = (client for client in self.clients if client.is_connected)
        return [
            _candidate(client, opened.request.model, hint)
            for client in clients
            if client.address not in opened.refused_by
        ]

    def _give(self, opened: OpenRequest, client: SchedulerClient, hint: PrefixHint) -> None:
        num_cached_tokens = hint.num_cached_tokens.get(client.address, 0)
        self._hints.sent(hint, client.address)
        client.take(opened, len(opened.request.prompt_token_ids) - num_cached_tokens)

    def _waits_until_s(self, opened: OpenRequest) -> float:
        """Never past its own deadline."""
        until_s = self._recovers_until_s if opened.waits_until_s is None else opened.waits_until_s
        return until_s if opened.deadline_s is None else min(until_s, opened.deadline_s)

    async def _wait(self, timeout_s: float) -> None:
        """For something to change."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _unreachable(self) -> GatewayError:
        addresses = ", ".join(client.address for client in self.clients)
        if len(self.clients) == 1:
            return unavailable(f"The scheduler at {addresses} is not reachable.")
        return unavailable(f"None of the schedulers is reachable: {addresses}.")

    # ---- what they say of themselves

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """All that any of them serves. Raises GatewayError when none can be asked."""
        return join_models(await self._ask(_models_of))

    def last_known(self, model: str) -> ModelInfo | None:
        """What one of them said of it, perhaps before it was lost."""
        return next((client.known[model] for client in self.clients if model in client.known), None)

    async def get_load(self) -> Load:
        """Of those that answer, as if they were one. Raises GatewayError when none does."""
        return sum_loads(await self._ask(lambda client: client.get_load(_answer_limit_s(client))))

    async def keep_loaded(self, model: str, keep_alive_s: float | None) -> None:
        """By all that serve it. Returns once each has answered, as the contract says; raises GatewayError when none can do it."""
        await self._ask(lambda client: client.keep_loaded(model, keep_alive_s), lambda client: model in client.models)

    async def _ask(
        self,
        question: Callable[[SchedulerClient], Awaitable[T]],
        concerns: Callable[[SchedulerClient], bool] = lambda client: True,
    ) -> list[T]:
        """The answers of those that are reachable and concerned, else of all. Raises GatewayError when each is an error."""
        connected = [client for client in self.clients if client.is_connected]
        asked = [client for client in connected if concerns(client)] or connected or self.clients
        answers = await asyncio.gather(*(_answer_or_error(question(client)) for client in asked))
        good = [answer for answer in answers if not isinstance(answer, GatewayError)]
        for client, answer in zip(asked, answers, strict=True):
            if isinstance(answer, GatewayError):
                if not good:
                    raise answer
                told = {"address": client.address, "reason": answer.message}
                logger.warning("one scheduler did not do what others did", extra=told)
        return good


async def _models_of(client: SchedulerClient) -> Iterable[ModelInfo]:
    try:
        return await client.list_models(_answer_limit_s(client))
    except GatewayError:
        if client.is_connected:
            # It is slow. What it said a second ago is better than nothing.
            return client.models.values()
        raise


def _answer_limit_s(client: SchedulerClient) -> float:
    return ANSWER_LIMIT_S if client.is_connected else RETURN_LIMIT_S


async def _answer_or_error(answer: Awaitable[T]) -> T | GatewayError:
    try:
        return await answer
    except GatewayError as error:
        return error


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
