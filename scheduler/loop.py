"""The owner of all workers. Three verbs: plan what a worker computes, run it there, apply its result.

Everything happens on one thread, in plain calls that return at once: no locks, no awaiting. Clients and workers are behind the
two small protocols `Client` and `WorkerLink`, time is behind `Clock`, so that the whole policy runs in tests without a network.
What becomes of requests is in requests.py, which models are in memory in served_models.py.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.cache_listener import CacheListener, NobodyListens
from scheduler.counters import Counters
from scheduler.errors import RequestError, SequenceFailedError, WorkerProtocolError
from scheduler.events import moved_event, prompt_logprobs_event, started_event
from scheduler.fair_queue import FairQueue
from scheduler.keep_alive import KeepAlive, Timers
from scheduler.leaving import movable
from scheduler.placement import Placement
from scheduler.planner import plan_step
from scheduler.queue_load import QueueLoad, queue_loads
from scheduler.requests import Requests
from scheduler.result import SampledTokens, ScoredTokens, StepResult
from scheduler.router import RoutingPolicy, prefix_aware
from scheduler.sequence import FinishReason, Sequence
from scheduler.sequence_listener import NobodyFollows, SequenceListener
from scheduler.served_models import ServedModels, Told
from scheduler.step_plan import PlannedSequence, WorkerLink
from scheduler.suspects import Suspects, making_way
from scheduler.unloaded_workers import LoadLink, UnloadedWorker
from scheduler.worker_info import LoadableModels, WorkerInfo, only_itself
from scheduler.worker_state import AttachedWorker, WorkerPhase


class Clock(Timers, Protocol):
    """The part of asyncio's event loop that the scheduler uses."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


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
        routing: RoutingPolicy = prefix_aware,
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
        self.keep_alive = KeepAlive(clock, keep_alive_s, on_expired=self.wake)
        self.waiting = FairQueue()
        self.counters = counters or Counters()
        self.on_readiness_changed: Callable[[], object] = lambda: None
        self._caches = caches or NobodyListens()
        self._listener = sequences or NobodyFollows()
        self._clock = clock
        self._max_lease_steps = max_lease_steps
        self._num_sessions = 0
        self._is_awake = False
        self._suspects = Suspects()
        self.models = ServedModels(
            clock,
            self.workers,
            self.waiting,
            self.keep_alive,
            self._listener,
            self.counters.models,
            grace_s=worker_grace_s,
            detach=self.detach,
            fail=self._fail,
            on_changed=self._models_changed,
        )
        self.requests = Requests(
            clock,
            self.workers,
            self.waiting,
            self.keep_alive,
            self._listener,
            info_of=self.models.info,
            wake=self.wake,
            max_waiting=max_waiting,
            max_waiting_per_tenant=max_waiting if max_waiting_per_tenant is None else max_waiting_per_tenant,
        )
        self._placement = Placement(
            routing, clock, self.workers, self.models.waiting_for, self.wake, takes_new=self.models.takes_new
        )

    @property
    def num_running(self) -> int:
        return sum(len(worker.running) for worker in self.workers.values())

    @property
    def num_pending_tokens(self) -> int:
        """To be computed before every sequence has its next token; caches may spare those that wait some of it."""
        running = (sequence.num_pending for worker in self.workers.values() for sequence in worker.running)
        return self.waiting.num_tokens + sum(running)

    def queue_loads(self) -> list[QueueLoad]:
        return queue_loads(self.waiting.in_any_order(), self._clock.time())

    @property
    def is_ready(self) -> bool:
        """Whether a request would be accepted and computed now."""
        is_any_serving = any(worker.phase is WorkerPhase.SERVING for worker in self.workers.values())
        return (is_any_serving or bool(self.models.unloaded)) and not self.requests.is_draining

    def begin_drain(self, on_idle: Callable[[], object]) -> None:
        """Refuse new requests from now on; `on_idle` is called when the last open one has ended, perhaps at once."""
        self.requests.drain(on_idle)
        self.on_readiness_changed()
        self.wake()

    # ---- plan → run → apply

    def wake(self) -> None:
        """Plan soon: what arrives together is planned together."""
        if not self._is_awake:
            self._is_awake = True
            self._clock.call_soon(self.run)

    def run(self) -> None:
        """Keep every worker's queue of steps filled."""
        self._is_awake = False
        leaving = [worker for worker in self.workers.values() if worker.phase is WorkerPhase.LEAVING]
        for worker in leaving:
            self._move_sequences_off(worker)
        hosts = self._suspects.hosts(self.workers.values())
        for host in hosts.values():
            for sequence in making_way(host):
                self._preempt(host, sequence)
        self._placement.begin_rounds(hosts)
        for worker in list(self.workers.values()):
            while worker.steps.has_room and self.step(worker):
                pass
        self._placement.end_rounds()
        for worker in self.workers.values():
            self._check_lease(worker)
        self._dismiss_workers()
        self.models.move()
        self.requests.deliver()

    def dismiss_all(self) -> None:
        """No step will come any more: this scheduler ends, and the workers go to another or wait for the next."""
        for worker in self.workers.values():
            worker.dismiss()
        for unloaded in self.models.unloaded:
            self.models.dismiss(unloaded)

    def _dismiss_workers(self) -> None:
        """Those that want to go and have nothing left to do; while this scheduler drains, all that nobody here waits for."""
        for worker in self.workers.values():
            is_going = worker.phase is WorkerPhase.LEAVING or self.requests.is_draining
            if is_going and worker.is_idle and not self._is_awaited(worker):
                worker.dismiss()
        if self.requests.is_draining:
            self.models.dismiss_unloaded()

    def _is_awaited(self, worker: AttachedWorker) -> bool:
        return worker.phase is WorkerPhase.SERVING and self._somebody_waits(worker.info.model)

    def _check_lease(self, worker: AttachedWorker) -> None:
        """What a lease foresaw no longer holds once somebody waits, or left without the worker's knowing."""
        lease = worker.steps.lease
        if lease is not None and (lease.is_outdated or self._somebody_waits(worker.info.model)):
            worker.recall_lease()

    def _somebody_waits(self, model: str) -> bool:
        return model in self.waiting.models

    def step(self, worker: AttachedWorker) -> bool:
        """Plan one step and send it; False when there was nothing to decide."""
        somebody_waits = self._somebody_waits(worker.info.model)
        waiting = self._placement.offers(worker) if somebody_waits else ()
        decision = plan_step(worker.running, waiting, worker.pool, worker.step_limits, somebody_waits=somebody_waits)
        for sequence in decision.preempted:
            self._preempt(worker, sequence)
        for sequence in decision.outgrown:
            self.requests.end(sequence, FinishReason.LENGTH)
        for admission in decision.admissions:
            self.waiting.remove(admission.sequence)
        if not worker.is_busy:
            worker.prompt_speed.began(self._clock.time())
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
        step = worker.steps.end(result.step_id)
        worker.prompt_speed.ended(step.num_tokens, len(step.sampling), self._clock.time())
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
            worker.steps.end_lease()
        worker.steps.follow_lease()
        sealed = worker.sealed.take_final(step.step_id)
        self._caches.blocks_changed(worker, worker.pool.take_evicted(), sealed)
        self.wake()
        self.requests.deliver()

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
            self.requests.tell(sequence, prompt_logprobs_event(sequence, start, logprobs))

    def _append(self, worker: AttachedWorker, sequence: Sequence, sampled: SampledTokens) -> None:
        self.requests.append(sequence, sampled)
        if sampled.stopped:
            worker.stop(sequence)
        worker.seal(sequence)
        if sampled.stopped:
            self.requests.end(sequence, FinishReason.STOP, stop_token_id=sampled.stop_token_id)
        elif len(sequence.token_ids) >= sequence.max_length:
            self.requests.end(sequence, FinishReason.LENGTH)

    # ---- workers

    def attach(
        self,
        info: WorkerInfo,
        link: WorkerLink,
        held_blocks: Seq[tuple[PageId, BlockHash]] = (),
        store: LoadableModels | None = None,
    ) -> AttachedWorker:
        """A worker opened a stream, its cache kept. An older stream of the same worker is dead, whatever its socket says.

        Without a store it can load again what it has, and nothing else. Raises ValueError for held blocks that cannot be.
        """
        if (old := self.workers.get(info.worker_id)) is not None:
            self.detach(old, is_alive=old.info.epoch == info.epoch)
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
        self.models.attached(info, store or only_itself(info))
        self.on_readiness_changed()
        self.wake()
        return worker

    def detach(self, worker: AttachedWorker, *, is_alive: bool = False) -> None:
        """Its stream ended: its sequences wait for another worker, their tokens kept. Does nothing the second time.

        Unless it is known to live or said that it would go, what it computed may have killed it.
        """
        if self.workers.get(worker.info.worker_id) is not worker:
            return
        del self.workers[worker.info.worker_id]
        self._caches.worker_detached(worker)
        has_died = not is_alive and worker.phase is WorkerPhase.SERVING
        convicted = self._suspects.record_death(worker) if has_died else None
        for sequence in list(worker.running):
            worker.leave(sequence)
            sequence.has_lost_worker = True
            self._listener.worker_lost(sequence)
            self.requests.queue(sequence)
        if convicted is not None:
            deaths = f"{convicted.num_deaths} workers in a row were lost while they computed it, the last one with nothing else"
            self.requests.fail([convicted], SequenceFailedError(deaths))
        self.models.detached(worker.info)
        self.on_readiness_changed()
        self.wake()
        self.requests.deliver()

    def leave(self, worker: AttachedWorker | UnloadedWorker) -> None:
        """A worker wants to end: it is dismissed once what it computes has moved elsewhere or ended."""
        if isinstance(worker, UnloadedWorker):
            self.models.dismiss(worker)
        elif worker.phase is WorkerPhase.SERVING:
            worker.phase = WorkerPhase.LEAVING
            self.on_readiness_changed()
        self.wake()

    def _move_sequences_off(self, worker: AttachedWorker) -> None:
        for sequence in movable(worker, self.workers.values()):
            worker.leave(sequence)
            self._listener.worker_leaves(sequence)
            self.requests.queue(sequence)

    def keep_loaded(self, model: str, keep_alive_s: float | None, told: Told) -> None:
        """As `ServedModels.keep_loaded`, at once."""
        self.models.keep_loaded(model, keep_alive_s, told)
        self.run()

    def attach_unloaded(self, worker_id: str, store: LoadableModels, link: LoadLink) -> UnloadedWorker:
        """A worker without a model opened a stream."""
        if worker_id in self.workers:
            self.detach(self.workers[worker_id])
        return self.models.attach_unloaded(worker_id, store, link)

    def _models_changed(self) -> None:
        self.on_readiness_changed()
        self.wake()

    def _fail(self, sequences: Seq[Sequence], error: RequestError) -> None:
        self.requests.fail(sequences, error)
        self.requests.deliver()

    # ---- sequences

    def _preempt(self, worker: AttachedWorker, sequence: Sequence) -> None:
        worker.leave(sequence)
        sequence.num_preemptions += 1
        self.counters.num_preemptions += 1
        self._listener.preempted(sequence)
        self.requests.queue(sequence)
        # Who came first in this round did not know of it.
        self.wake()

    def _record_admission(self, worker: AttachedWorker, planned: PlannedSequence) -> None:
        sequence = planned.sequence
        if sequence.first_step_s is None:
            sequence.first_step_s = self._clock.time()
            sequence.num_cached_tokens = planned.start
            self.counters.num_prefix_queries += len(sequence.token_ids)
            self.counters.num_prefix_hits += planned.start
            self.waiting.charge(sequence.tenant, num_prompt_tokens=len(sequence.token_ids) - planned.start)
            self.requests.tell(sequence, started_event(sequence))
        elif sequence.has_moved:
            self.requests.tell(sequence, moved_event(sequence))
        self._listener.admitted(sequence, num_cached_tokens=planned.start)
        sequence.admitted_before, sequence.has_lost_worker = worker.info.worker_id, False
