"""One open request: a bounded buffer of its events, and the state that it needs to resume on another scheduler.

The session's reader adds events and never waits for a slow consumer. A buffer that overflows ends only this request. After a
resumption the consumer sees no event twice.
"""

import asyncio
from collections import deque
from dataclasses import replace
from typing import Protocol, Self

from gateway.errors import ErrorKind, GatewayError
from gateway.upstream.prefix_hints import NO_BLOCKS
from pagoda.wire.events import Event, Moved, PromptLogprobs, Started, Tokens
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest, ResumedSample


class Place(Protocol):
    """The session that serves an open request, and the commands that the request sends through it."""

    def send_finish(self, name: str, sample_index: int, num_tokens: int) -> None: ...

    def send_cancel(self, name: str) -> None: ...

    def forget_request(self, name: str) -> None:
        """Record that the request has ended."""


class OpenRequest:
    """An iterator over the events of a request. It ends once each sample has finished, or raises the request's one error."""

    def __init__(self, request: InferenceRequest, *, max_buffered_events: int) -> None:
        """Create the request. `max_buffered_events` applies per sample, because each step brings one event per sample."""
        self.request = request
        self.generated: tuple[list[int], ...] = tuple([] for _ in range(request.num_samples))
        """Token ids of each sample so far."""
        self.name = request.request_id
        """Name of the request in its current session."""
        self.has_begun = False
        """True if a sample has started in the current session."""
        self.waits_until_s: float | None = None
        """Latest time, by the event loop's clock, to find another scheduler; None until the request has lost one."""
        self.refused_by: set[str] = set()
        """Addresses of the schedulers that refused the request since it last waited."""
        self.prompt_blocks = NO_BLOCKS
        """Hashes of the prompt's leading blocks, kept from the first look-up."""
        self._num_withdrawals = 0
        self._place: Place | None = None
        self._max_buffered_events = max_buffered_events * request.num_samples
        self._events: deque[Event] = deque()
        self._waiting: asyncio.Future[None] | None = None
        """Future on which the consumer waits while there is no event."""
        self._unfinished = set(range(request.num_samples))
        self._finished_here: dict[int, int] = {}
        """Number of tokens of each sample that a stop string ended."""
        self._started: dict[int, Started] = {}
        """First start of each sample."""
        self._worker_of: dict[int, str] = {}
        self._num_scored = 1
        """Number of prompt tokens whose log-probabilities have arrived, including the first, which has none."""
        timeout_s = request.timeout_s
        self.deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        self._error: GatewayError | None = None
        self.is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self.is_closed:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._events.popleft()

    def finish_sample(self, sample_index: int, num_tokens: int) -> None:
        """End the sample at a stop string, after `num_tokens` tokens. Later tokens are dropped; `Finished` still arrives."""
        if not self.is_closed:
            self._finished_here[sample_index] = num_tokens
            if self._place is not None:
                self._place.send_finish(self.name, sample_index, num_tokens)

    def cancel_request(self) -> None:
        """End the request because its consumer has left. May be called at any time, and repeatedly."""
        if not self.is_closed:
            self._cancel_at_place()
            self._close()

    def begin_at_place(self, place: Place) -> None:
        """Record the session of the request, and send it the sample ends that the previous scheduler did not confirm."""
        self._place = place
        self.has_begun = False
        for sample_index, num_tokens in self._finished_here.items():
            if sample_index in self._unfinished:
                place.send_finish(self.name, sample_index, num_tokens)

    def leave_place(self) -> None:
        """Record that the request has no session, until the next `begin_at_place`."""
        self._place = None

    def withdraw_request(self) -> None:
        """Leave a session that still works, and take a new name: events under the old one may still arrive."""
        self._cancel_at_place()
        self.leave_place()
        self._num_withdrawals += 1
        self.name = f"{self.request.request_id}-{self._num_withdrawals}"

    def resumed_request(self) -> InferenceRequest:
        """Return what to send to a scheduler that has not seen this request."""
        request = replace(self.request, request_id=self.name)
        if self.deadline_s is not None:
            # After the deadline, the scheduler reports it in the next answer.
            left_s = max(0.001, self.deadline_s - asyncio.get_running_loop().time())
            request = replace(request, timeout_s=left_s)
        if not any(self.generated) and len(self._unfinished) == request.num_samples:
            return request
        samples = [
            ResumedSample(
                sample_index=index,
                generated_token_ids=tuple(token_ids),
                is_finished=index not in self._unfinished,
            )
            for index, token_ids in enumerate(self.generated)
        ]
        return replace(request, resumed=tuple(samples))

    def deliver_event(self, event: Event) -> None:
        """Add an event from the session's reader to the buffer."""
        if self.is_closed:
            return
        seen = self._as_seen(event)
        if seen is not None:
            self._events.append(seen)
            self._wake_consumer()
        if not self._unfinished:
            self._close()

    def fail_request(self, error: GatewayError) -> None:
        """End the request with this error, which the consumer sees after the buffered events."""
        if not self.is_closed:
            self._error = error
            self._close()

    def _as_seen(self, event: Event) -> Event | None:
        """Return the event as the consumer sees it, or None if the consumer must not see it."""
        match event:
            case Tokens():
                return event if self._record_tokens(event) else None
            case Finished():
                self._unfinished.discard(event.sample_index)
                return self._as_first_cached(event)
            case Started():
                return self._note_start(event)
            case PromptLogprobs():
                return self._unscored(event)
            case Moved():
                return self._note_move(event)

    def _note_start(self, event: Started) -> Started | Moved:
        """Record a start. The consumer sees one start per sample; each later one becomes a `Moved` event."""
        self.has_begun = True
        previous = self._worker_of.get(event.sample_index)
        self._worker_of[event.sample_index] = event.worker_id
        if previous is None:
            self._started[event.sample_index] = event
            return event
        return Moved(
            request_id=event.request_id,
            sample_index=event.sample_index,
            from_worker_id=previous,
            to_worker_id=event.worker_id,
        )

    def _note_move(self, event: Moved) -> Moved:
        """Record a move between two workers of the scheduler."""
        self._worker_of[event.sample_index] = event.to_worker_id
        return event

    def _unscored(self, event: PromptLogprobs) -> PromptLogprobs | None:
        """Return the part of the event that has not arrived before, or None if there is none."""
        start = self._num_scored
        new = event.logprobs[max(0, start - event.start) :]
        if not new:
            return None
        self._num_scored += len(new)
        return replace(event, start=start, logprobs=new)

    def _as_first_cached(self, event: Finished) -> Finished:
        """Return the end with at most as many cached tokens as the sample had at its first start.

        More were cached at a later start only because the request had already computed its prompt itself.
        """
        started = self._started.get(event.sample_index)
        if started is None:
            return event
        num_cached_tokens = min(started.num_cached_tokens, event.usage.num_cached_tokens)
        return replace(event, usage=replace(event.usage, num_cached_tokens=num_cached_tokens))

    def _record_tokens(self, tokens: Tokens) -> bool:
        """Record the tokens and return True if the consumer must see them."""
        if tokens.sample_index in self._finished_here:
            return False
        generated = self.generated[tokens.sample_index]
        if tokens.sequence_number != len(generated):
            self._abandon(
                GatewayError(
                    ErrorKind.INTERNAL,
                    f"The scheduler sent token {tokens.sequence_number} of a sample; token {len(generated)} was expected.",
                )
            )
            return False
        generated.extend(tokens.token_ids)
        if len(self._events) < self._max_buffered_events:
            return True
        self._events.clear()
        self._abandon(GatewayError(ErrorKind.CLIENT_CLOSED, "The client reads too slowly; its request was cancelled."))
        return False

    def _abandon(self, error: GatewayError) -> None:
        self._cancel_at_place()
        self.fail_request(error)

    def _cancel_at_place(self) -> None:
        if self._place is not None:
            self._place.send_cancel(self.name)

    def _wake_consumer(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _close(self) -> None:
        self.is_closed = True
        self._wake_consumer()
        if self._place is not None:
            self._place.forget_request(self.name)
            self._place = None
