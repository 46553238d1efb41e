"""From a request's arrival to the one end of each of its samples: accepted or refused, finished, failed, given up by its client.

Owns who waits and what each client has been told. Knows nothing about steps and pages; a sequence that runs is taken off its
worker, which knows about those.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace

from scheduler.counters import DrainRate
from scheduler.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
)
from scheduler.events import Client, Event, Failed, finished_event, tokens_event
from scheduler.fair_queue import FairQueue
from scheduler.keep_alive import KeepAlive, Timers
from scheduler.open_requests import OpenRequests
from scheduler.request import InferenceRequest, OpenRequest, check_request, make_sequences
from scheduler.result import SampledTokens
from scheduler.sequence import FinishReason, Sequence, SequenceStatus
from scheduler.sequence_listener import SequenceListener
from scheduler.worker_info import WorkerInfo
from scheduler.worker_state import AttachedWorker


class Requests:
    def __init__(
        self,
        timers: Timers,
        workers: Mapping[str, AttachedWorker],
        waiting: FairQueue,
        keep_alive: KeepAlive,
        listener: SequenceListener,
        *,
        info_of: Callable[[str], WorkerInfo],
        wake: Callable[[], object],
        max_waiting: int,
        max_waiting_per_tenant: int,
    ) -> None:
        """`info_of` describes the workers of a model, by name, or raises a RequestError. `wake` has the next steps planned."""
        self._timers = timers
        self._workers = workers
        self._waiting = waiting
        self._keep_alive = keep_alive
        self._listener = listener
        self._info_of = info_of
        self._wake = wake
        self._max_waiting = max_waiting
        self._max_waiting_per_tenant = max_waiting_per_tenant
        self._open = OpenRequests()
        self.drain_rate = DrainRate(timers.time)
        self._next_sequence_id = 1
        self.is_draining = False
        self._on_idle: Callable[[], object] = lambda: None

    def drain(self, on_idle: Callable[[], object]) -> None:
        """Refuse new requests from now on; `on_idle` is called when the last open one has ended, perhaps at once."""
        self.is_draining = True
        self._on_idle = on_idle
        if not self._open:
            on_idle()

    # ---- what clients ask for

    def submit(self, request: InferenceRequest, client: Client) -> None:
        """Queue the samples of a request. Raises a RequestError and queues nothing when it can't be accepted."""
        if self.is_draining:
            raise ShuttingDownError
        info = self._info_of(request.model)
        check_request(request, info.limits)
        if self._open.find(client, request.request_id) is not None:
            raise InvalidRequestError(f"request_id {request.request_id!r} is already open")
        self._check_room(request)
        sequences = make_sequences(request, info, first_id=self._next_sequence_id, now_s=self._timers.time())
        self._next_sequence_id += len(sequences)
        self._accept(OpenRequest(request=request, client=client, sequences={s.sample_index: s for s in sequences}))
        for sequence in sequences:
            if len(sequence.token_ids) >= sequence.max_length:
                self.end(sequence, FinishReason.LENGTH)
        self._wake()
        self.deliver()

    def cancel(self, client: Client, request_id: str) -> None:
        """The client left. Unknown requests have ended already: nothing to do."""
        opened = self._open.find(client, request_id)
        if opened is not None:
            self._abort(opened)

    def cancel_all(self, client: Client) -> None:
        """A client's connection is gone, with all its requests."""
        for opened in self._open.of_client(client):
            self._abort(opened)

    def finish(self, client: Client, request_id: str, sample_index: int, num_tokens: int) -> None:
        """The client found the end of a sample (a stop string) within its first `num_tokens` generated tokens."""
        opened = self._open.find(client, request_id)
        sequence = opened.sequences.get(sample_index) if opened else None
        if sequence is not None:
            self.end(sequence, FinishReason.STOP, num_output_tokens=min(num_tokens, sequence.num_output_tokens))
            self._wake()
            self.deliver()

    # ---- what becomes of their sequences

    def queue(self, sequence: Sequence) -> None:
        """It waits for a worker: for the first time, or again."""
        sequence.status = SequenceStatus.WAITING
        if not self._waiting:
            self.drain_rate.begin()
        self._waiting.add(sequence)

    def append(self, sequence: Sequence, sampled: SampledTokens) -> None:
        """It has new tokens."""
        event = tokens_event(sequence, sampled.token_ids, sampled.logprobs)
        sequence.append(sampled.token_ids)
        self._waiting.charge(sequence.tenant, num_output_tokens=len(sampled.token_ids))
        if sequence.first_token_s is None:
            sequence.first_token_s = self._timers.time()
        self._listener.sampled(sequence)
        self.tell(sequence, event)

    def end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        stop_token_id: int | None = None,
        num_output_tokens: int | None = None,
    ) -> None:
        event = finished_event(sequence, reason, now_s=self._timers.time())
        if stop_token_id is not None:
            event = replace(event, stop_token_id=stop_token_id)
        if num_output_tokens is not None:
            event = replace(event, num_output_tokens=num_output_tokens)
        self.tell(sequence, event)
        self._listener.finished(sequence, reason)
        self._forget(sequence)

    def fail(self, sequences: Seq[Sequence], error: RequestError) -> None:
        """With all their siblings: a request has one error."""
        for sequence in sequences:
            if sequence.status is not SequenceStatus.ENDED:
                self._fail(self._open.of(sequence), error)

    def tell(self, sequence: Sequence, event: Event) -> None:
        """Reaches the client with the next `deliver`."""
        self._open.tell(self._open.of(sequence), event)

    def deliver(self) -> None:
        """Each client gets everything that concerns it in one call."""
        self._open.deliver()

    def _accept(self, opened: OpenRequest) -> None:
        request, sequences = opened.request, list(opened.sequences.values())
        self._open.add(opened)
        self._keep_alive.began(sequences[0].model, len(sequences))
        self._keep_alive.wish(sequences[0].model, request.keep_alive_s)
        for sequence in sequences:
            self.queue(sequence)
            place, num_waiting = self._waiting.place(sequence), len(self._waiting)
            sequence.traceparent = self._listener.queued(sequence, request, place=place, num_waiting=num_waiting)
        if request.timeout_s is not None:
            opened.deadline = self._timers.call_later(request.timeout_s, lambda: self._expire(opened))

    def _check_room(self, request: InferenceRequest) -> None:
        """Raises QueueFullError: of this tenant, or of all, too many wait."""
        of_tenant, of_all = self._waiting.num_waiting(request.tenant), len(self._waiting)
        if of_tenant + request.num_samples > self._max_waiting_per_tenant:
            number, limit, whose = of_tenant, self._max_waiting_per_tenant, "your queue"
        elif of_all + request.num_samples > self._max_waiting:
            number, limit, whose = of_all, self._max_waiting, "the queue"
        else:
            return
        wait_s = self.drain_rate.seconds_for(of_all)
        raise QueueFullError(
            f"{whose} is full: {number} sequences wait, at most {limit} may; number {number + 1} would wait about {wait_s:.0f} s",
            retry_after_s=wait_s,
        )

    def _abort(self, opened: OpenRequest) -> None:
        for sequence in list(opened.sequences.values()):
            self.end(sequence, FinishReason.ABORT)
        self._wake()
        self.deliver()

    def _expire(self, opened: OpenRequest) -> None:
        timeout = opened.request.timeout_s
        self._fail(opened, DeadlineExceededError(f"the request's deadline of {timeout:g} s passed"))
        self._wake()
        self.deliver()

    def _fail(self, opened: OpenRequest, error: RequestError) -> None:
        self._open.tell(opened, Failed(request_id=opened.request.request_id, error=error))
        for sequence in list(opened.sequences.values()):
            self._listener.failed(sequence, error)
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        """It leaves its worker or the queue for good."""
        if sequence.status is SequenceStatus.RUNNING:
            self._workers[sequence.worker_id or ""].leave(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = SequenceStatus.ENDED
        self.drain_rate.record(somebody_waits=bool(self._waiting))
        self._open.remove(sequence)
        self._keep_alive.ended(sequence.model)
        if not self._open:
            self._on_idle()
