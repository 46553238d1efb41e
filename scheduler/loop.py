"""The owner of all requests, sequences and workers. Three verbs: plan what a worker computes, run it there, apply its result.

Everything happens on one thread, in plain calls that return at once: no locks, no awaiting. Clients and workers are behind the
two small protocols `Client` and `WorkerLink`, time is behind `Clock`, so that the whole policy runs in tests without a network.
"""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Protocol

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.counters import Counters, DrainRate
from scheduler.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotServedError,
    QueueFullError,
    RequestError,
    SequenceFailedError,
    UnavailableError,
)
from scheduler.events import (
    Client,
    Event,
    Failed,
    finished_event,
    moved_event,
    prompt_logprobs_event,
    started_event,
    tokens_event,
)
from scheduler.fair_queue import FairQueue
from scheduler.keep_alive import KeepAlive, Timers
from scheduler.open_requests import OpenRequests
from scheduler.planner import plan_step
from scheduler.request import InferenceRequest, OpenRequest, check_request, make_sequences
from scheduler.result import SampledTokens, ScoredTokens, StepResult
from scheduler.sequence import FinishReason, Sequence, SequenceStatus
from scheduler.sequence_listener import NobodyFollows, SequenceListener
from scheduler.unloaded_workers import LoadLink, Told, UnloadedWorker, UnloadedWorkers
from scheduler.worker_state import AttachedWorker, CacheListener, NobodyListens, PlannedSequence, WorkerInfo, WorkerLink

# A sequence that was running at this many deaths in a row, without a token in between, may be what kills them.
MAX_WORKER_LOSSES = 3


class Clock(Timers, Protocol):
    """The part of asyncio's event loop that the scheduler uses."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


class WorkerProtocolError(Exception):
    """A worker broke the contract; its stream is ended."""


class SchedulerLoop:
    def __init__(
        self,
        clock: Clock,
        *,
        max_waiting: int = 1024,
        max_waiting_per_tenant: int | None = None,
        worker_grace_s: float = 60.0,
        max_lease_steps: int = 1,
        keep_alive_s: float = math.inf,
        caches: CacheListener | None = None,
        sequences: SequenceListener | None = None,
        counters: Counters | None = None,
    ) -> None:
        """At most `max_waiting` sequences queue, and of one tenant `max_waiting_per_tenant`. A model without any worker for
        `worker_grace_s` fails its requests.

        When nobody waits, a worker goes on by itself for at most `max_lease_steps` steps. A model that nobody has used for
        `keep_alive_s` leaves memory, unless a request has wished otherwise.
        """
        self.workers: dict[str, AttachedWorker] = {}
        self.unloaded = UnloadedWorkers(
            clock, grace_s=worker_grace_s, on_changed=self._unloaded_changed, on_failed=self._fail_waiting
        )
        self.keep_alive = KeepAlive(clock, keep_alive_s, on_expired=self.wake)
        self.waiting = FairQueue()
        self.counters = counters or Counters()
        self.on_readiness_changed: Callable[[], object] = lambda: None
        self._is_draining = False
        self._on_idle: Callable[[], object] = lambda: None
        self._caches = caches or NobodyListens()
        self._listener = sequences or NobodyFollows()
        self._clock = clock
        self._max_waiting = max_waiting
        self._max_waiting_per_tenant = max_waiting if max_waiting_per_tenant is None else max_waiting_per_tenant
        self._worker_grace_s = worker_grace_s
        self._max_lease_steps = max_lease_steps
        self._requests = OpenRequests()
        self._drain_rate = DrainRate(clock.time)
        self._next_sequence_id = 1
        self._num_sessions = 0
        self._is_awake = False

    @property
    def num_running(self) -> int:
        return sum(len(worker.running) for worker in self.workers.values())

    @property
    def is_ready(self) -> bool:
        """Whether a request would be accepted and computed now."""
        return bool(self.workers or self.unloaded) and not self._is_draining

    def begin_drain(self, on_idle: Callable[[], object]) -> None:
        """Refuse new requests from now on; `on_idle` is called when the last open one has ended, perhaps at once."""
        self._is_draining = True
        self._on_idle = on_idle
        self.on_readiness_changed()
        if not self._requests:
            on_idle()

    # ---- plan → run → apply

    def wake(self) -> None:
        """Plan soon: what arrives together is planned together."""
        if not self._is_awake:
            self._is_awake = True
            self._clock.call_soon(self.run)

    def run(self) -> None:
        """Keep every worker's queue of steps filled."""
        self._is_awake = False
        for worker in list(self.workers.values()):
            while worker.has_room_for_a_step and self.step(worker):
                pass
        for worker in self.workers.values():
            self._check_lease(worker)
        self._move_models()
        self._requests.deliver()

    def _check_lease(self, worker: AttachedWorker) -> None:
        """What a lease foresaw no longer holds once somebody waits, or left without the worker's knowing."""
        if worker.lease is not None:
            somebody_waits = next(self._waiting_for(worker.info.model), None) is not None
            if worker.lease.is_outdated or somebody_waits:
                worker.recall_lease()

    def step(self, worker: AttachedWorker) -> bool:
        """Plan one step and send it; False when there was nothing to decide."""
        decision = plan_step(worker.running, self._waiting_for(worker.info.model), worker.pool, worker.step_limits)
        for sequence in decision.preempted:
            self._preempt(worker, sequence)
        for sequence in decision.outgrown:
            self._finish(sequence, FinishReason.LENGTH)
        for admission in decision.admissions:
            self.waiting.remove(admission.sequence)
        plan = worker.carry_out(decision)
        if plan is None:
            return bool(decision.preempted or decision.outgrown)
        for planned in plan.scheduled:
            if planned.sequence in plan.new_sequences:
                self._record_admission(worker, planned)
        worker.link.send_step(plan)
        return True

    def apply(self, worker: AttachedWorker, result: StepResult) -> None:
        """Take in what a step sampled. Raises WorkerProtocolError when the result is not the one that was due."""
        if self.workers.get(worker.info.worker_id) is not worker:
            raise WorkerProtocolError("this stream was replaced by a newer one of the same worker")
        step = worker.in_flight[0] if worker.in_flight else None
        if step is None or step.step_id != result.step_id:
            due = f"step {step.step_id}" if step else "none"
            raise WorkerProtocolError(f"result of step {result.step_id} came, but {due} was due")
        worker.in_flight.popleft()
        self.counters.num_steps += step.num_tokens > 0
        self.counters.num_step_tokens += step.num_tokens
        for scored in result.scored:
            self._tell_scored(worker, scored)
        for sampled in result.sampled:
            sequence, attempt = step.sampling.pop(sampled.sequence_id, (None, 0))
            if sequence is not None and attempt == sampled.attempt == sequence.attempt:
                self._append(worker, sequence, sampled)
        # The worker leaves out only sequences that it ended itself, and those have left here too.
        missing = [sequence for sequence, attempt in step.sampling.values() if sequence.attempt == attempt]
        if missing:
            raise WorkerProtocolError(f"step {result.step_id} has no token for sequence {missing[0].sequence_id}")
        if result.next_is_last:
            worker.lease = None
        worker.follow_lease()
        sealed = worker.take_final(step.step_id)
        self._caches.blocks_changed(worker, worker.pool.take_evicted(), sealed)
        self.wake()
        self._requests.deliver()

    def _tell_scored(self, worker: AttachedWorker, scored: ScoredTokens) -> None:
        """What was told before the sequence was preempted is not told again."""
        running = (each for each in worker.running if each.sequence_id == scored.sequence_id)
        sequence = next(running, None)
        if sequence is None or sequence.attempt != scored.attempt:
            return
        if scored.start > sequence.num_scored:
            raise WorkerProtocolError(
                f"sequence {scored.sequence_id} has log-probabilities from {scored.start} on, {sequence.num_scored} was due"
            )
        start = sequence.num_scored
        logprobs = scored.logprobs[start - scored.start :]
        if logprobs:
            sequence.num_scored += len(logprobs)
            self._tell(sequence, prompt_logprobs_event(sequence, start, logprobs))

    def _append(self, worker: AttachedWorker, sequence: Sequence, sampled: SampledTokens) -> None:
        event = tokens_event(sequence, sampled.token_ids, sampled.logprobs)
        sequence.append(sampled.token_ids)
        self.waiting.charge(sequence.tenant, num_output_tokens=len(sampled.token_ids))
        sequence.num_worker_losses = 0
        if sampled.stopped:
            worker.stop(sequence)
        worker.seal(sequence)
        if sequence.first_token_s is None:
            sequence.first_token_s = self._clock.time()
        self._listener.sampled(sequence)
        self._tell(sequence, event)
        if sampled.stopped:
            self._finish(sequence, FinishReason.STOP, stop_token_id=sampled.stop_token_id)
        elif len(sequence.token_ids) >= sequence.max_length:
            self._finish(sequence, FinishReason.LENGTH)

    # ---- requests

    def submit(self, request: InferenceRequest, client: Client) -> None:
        """Queue the samples of a request. Raises a RequestError and queues nothing when it can't be accepted."""
        if self._is_draining:
            raise UnavailableError("the scheduler is shutting down", retry_after_s=1.0)
        info = self._worker_info(request.model)
        check_request(request, info.limits)
        if self._requests.find(client, request.request_id) is not None:
            raise InvalidRequestError(f"request_id {request.request_id!r} is already open")
        self._check_room(request)
        sequences = make_sequences(request, info, first_id=self._next_sequence_id, now_s=self._clock.time())
        self._next_sequence_id += len(sequences)
        opened = OpenRequest(request=request, client=client, sequences={s.sample_index: s for s in sequences})
        self._requests.add(opened)
        self.keep_alive.began(info.model, len(sequences))
        self.keep_alive.wish(info.model, request.keep_alive_s)
        for sequence in sequences:
            sequence.traceparent = self._listener.queued(sequence, request)
            self._queue(sequence)
        if request.timeout_s is not None:
            opened.deadline = self._clock.call_later(request.timeout_s, lambda: self._expire(opened))
        for sequence in sequences:
            if len(sequence.token_ids) >= sequence.max_length:
                self._finish(sequence, FinishReason.LENGTH)
        self.wake()
        self._requests.deliver()

    def _check_room(self, request: InferenceRequest) -> None:
        """Raises QueueFullError: of this tenant, or of all, too many wait."""
        of_tenant, of_all = self.waiting.num_waiting(request.tenant), len(self.waiting)
        if of_tenant + request.num_samples > self._max_waiting_per_tenant:
            number, limit, whose = of_tenant, self._max_waiting_per_tenant, "your queue"
        elif of_all + request.num_samples > self._max_waiting:
            number, limit, whose = of_all, self._max_waiting, "the queue"
        else:
            return
        raise QueueFullError(
            f"{whose} is full: {number} sequences wait, at most {limit} may",
            retry_after_s=self._drain_rate.seconds_for(of_all),
        )

    def cancel(self, client: Client, request_id: str) -> None:
        """The client left. Unknown requests have ended already: nothing to do."""
        opened = self._requests.find(client, request_id)
        if opened is not None:
            self._abort(opened)

    def finish(self, client: Client, request_id: str, sample_index: int, num_tokens: int) -> None:
        """The client found the end of a sample (a stop string) within its first `num_tokens` generated tokens."""
        opened = self._requests.find(client, request_id)
        sequence = opened.sequences.get(sample_index) if opened else None
        if sequence is not None:
            self._finish(sequence, FinishReason.STOP, num_output_tokens=min(num_tokens, sequence.num_output_tokens))
            self.wake()
            self._requests.deliver()

    def cancel_all(self, client: Client) -> None:
        """A client's connection is gone, with all its requests."""
        for opened in self._requests.of_client(client):
            self._abort(opened)

    def _abort(self, opened: OpenRequest) -> None:
        for sequence in list(opened.sequences.values()):
            self._finish(sequence, FinishReason.ABORT)
        self.wake()
        self._requests.deliver()

    def _worker_info(self, model: str) -> WorkerInfo:
        known = [*(worker.info for worker in self.unloaded), *(worker.info for worker in self.workers.values())]
        infos = {info.model: info for info in known}
        if not infos:
            raise UnavailableError("no worker is attached", retry_after_s=2.0)
        served = ", ".join(sorted(infos))
        if model in infos:
            return infos[model]
        if model:
            raise ModelNotServedError(f"model {model!r} is not served; served: {served}")
        if len(infos) > 1:
            raise InvalidRequestError(f"name a model, there are several: {served}")
        return next(iter(infos.values()))

    def _expire(self, opened: OpenRequest) -> None:
        timeout = opened.request.timeout_s
        self._fail(opened, DeadlineExceededError(f"the request's deadline of {timeout:g} s passed"))
        self.wake()
        self._requests.deliver()

    # ---- workers

    def attach(
        self, info: WorkerInfo, link: WorkerLink, held_blocks: Seq[tuple[PageId, BlockHash]] = ()
    ) -> AttachedWorker:
        """A worker opened a stream, its cache kept. An older stream of the same worker is dead, whatever its socket says.

        Raises ValueError for held blocks that cannot be.
        """
        if info.worker_id in self.workers:
            self.detach(self.workers[info.worker_id])
        self._num_sessions += 1
        worker = AttachedWorker(
            info,
            session_id=self._num_sessions,
            link=link,
            held_blocks=held_blocks,
            max_lease_steps=self._max_lease_steps,
        )
        self.workers[info.worker_id] = worker
        self._caches.worker_attached(worker)
        self.keep_alive.restart(info.model)
        self.unloaded.loaded(info)
        self.on_readiness_changed()
        self.wake()
        return worker

    def detach(self, worker: AttachedWorker) -> None:
        """Its stream ended: its sequences wait for another worker, their tokens kept. Does nothing the second time."""
        if self.workers.get(worker.info.worker_id) is not worker:
            return
        del self.workers[worker.info.worker_id]
        self._caches.worker_detached(worker)
        lost = list(worker.running)
        for sequence in lost:
            worker.leave(sequence)
            sequence.num_worker_losses += 1
            self._listener.worker_lost(sequence)
            self._queue(sequence)
        for sequence in lost:
            if sequence.num_worker_losses >= MAX_WORKER_LOSSES and sequence.status is SequenceStatus.WAITING:
                error = SequenceFailedError(f"{MAX_WORKER_LOSSES} workers were lost while they computed it")
                self._fail(self._requests.of(sequence), error)
        model = worker.info.model
        if not self._is_served(model):
            self._clock.call_later(self._worker_grace_s, lambda: self._fail_orphans(model))
        self.on_readiness_changed()
        self.wake()
        self._requests.deliver()

    def _is_served(self, model: str) -> bool:
        return any(worker.info.model == model for worker in self.workers.values())

    def _fail_orphans(self, model: str) -> None:
        if not self.unloaded.has(model):
            reason = f"no worker has served {model!r} for {self._worker_grace_s:g} s"
            self._fail_waiting(model, UnavailableError(reason, retry_after_s=5.0))

    def _fail_waiting(self, model: str, error: RequestError) -> None:
        """Unless a worker serves it after all."""
        if self._is_served(model):
            return
        for sequence in list(self._waiting_for(model)):
            if sequence.status is SequenceStatus.WAITING:
                self._fail(self._requests.of(sequence), error)
        self._requests.deliver()

    # ---- models that come and go

    def keep_loaded(self, model: str, keep_alive_s: float | None, told: Told) -> None:
        """The model is to stay so long after its last request, and to come into memory unless that is no time at all.

        Raises a RequestError for a model that no worker has.
        """
        model = self._worker_info(model).model
        self.keep_alive.wish(model, keep_alive_s)
        if keep_alive_s == 0 or self._is_served(model):
            told(None)
        else:
            self.unloaded.wait_for(model, told)
        self.run()

    def attach_unloaded(self, info: WorkerInfo, link: LoadLink) -> UnloadedWorker:
        """A worker without a model opened a stream."""
        if info.worker_id in self.workers:
            self.detach(self.workers[info.worker_id])
        return self.unloaded.attach(info, link)

    def _move_models(self) -> None:
        """Out of memory where nobody uses them any more, back into it where somebody waits."""
        for worker in list(self.workers.values()):
            model = worker.info.model
            if worker.is_idle and self.keep_alive.is_over(model):
                worker.link.send_unload()
                self.unloaded.expect(worker.info)
                self.detach(worker)
                if not self._is_served(model):
                    self.keep_alive.forget_wish(model)
        for model in {worker.info.model for worker in self.unloaded}:
            is_awaited = self.unloaded.is_awaited(model) or next(self._waiting_for(model), None) is not None
            if is_awaited and not self._is_served(model):
                self.unloaded.load(model)

    def _unloaded_changed(self) -> None:
        self.on_readiness_changed()
        self.wake()

    # ---- sequences

    def _waiting_for(self, model: str) -> Iterator[Sequence]:
        return (sequence for sequence in self.waiting if sequence.model == model)

    def _queue(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.WAITING
        self.waiting.add(sequence)

    def _preempt(self, worker: AttachedWorker, sequence: Sequence) -> None:
        worker.leave(sequence)
        sequence.num_preemptions += 1
        self.counters.num_preemptions += 1
        self._listener.preempted(sequence)
        self._queue(sequence)

    def _record_admission(self, worker: AttachedWorker, planned: PlannedSequence) -> None:
        sequence = planned.sequence
        if sequence.first_step_s is None:
            sequence.first_step_s = self._clock.time()
            sequence.num_cached_tokens = planned.start
            self.counters.num_prefix_queries += len(sequence.token_ids)
            self.counters.num_prefix_hits += planned.start
            self.waiting.charge(sequence.tenant, num_prompt_tokens=len(sequence.token_ids) - planned.start)
            self._tell(sequence, started_event(sequence))
        elif sequence.admitted_before != sequence.worker_id:
            self._tell(sequence, moved_event(sequence))
        self._listener.admitted(sequence, num_cached_tokens=planned.start)
        sequence.admitted_before = worker.info.worker_id

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        stop_token_id: int | None = None,
        num_output_tokens: int | None = None,
    ) -> None:
        event = finished_event(sequence, reason, now_s=self._clock.time())
        if stop_token_id is not None:
            event = replace(event, stop_token_id=stop_token_id)
        if num_output_tokens is not None:
            event = replace(event, num_output_tokens=num_output_tokens)
        self._tell(sequence, event)
        self._listener.finished(sequence, reason)
        self._end(sequence)

    def _fail(self, opened: OpenRequest, error: RequestError) -> None:
        self._requests.tell(opened, Failed(request_id=opened.request.request_id, error=error))
        for sequence in list(opened.sequences.values()):
            self._listener.failed(sequence, error)
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        """It leaves its worker or the queue for good."""
        if sequence.status is SequenceStatus.RUNNING:
            self.workers[sequence.worker_id or ""].leave(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.ENDED
        self._drain_rate.record()
        self._requests.remove(sequence)
        self.keep_alive.ended(sequence.model)
        if not self._requests:
            self._on_idle()

    def _tell(self, sequence: Sequence, event: Event) -> None:
        self._requests.tell(self._requests.of(sequence), event)
