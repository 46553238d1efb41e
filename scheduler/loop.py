"""The scheduler's loop: plan what a worker computes, run it there, apply its result.

Everything happens on one thread, in plain calls that return immediately, without locks or awaiting. Clients, workers and time are
the small protocols `Client`, `WorkerLink` and `Clock`, so that tests run the whole policy without a network.
The other parts are: requests.py (calls of clients), lifecycle.py (states of sequences), attachments.py (workers attach and detach),
models/model_loading.py (models are loaded and unloaded) and context.py (shared state). Each change that they make ends in `wake`.
"""

from collections.abc import Callable
from typing import Final

from pagoda.wire.finished import FinishReason
from pagoda.wire.load import QueueLoad
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from scheduler.attachments import Attachments, WorkerRegistry
from scheduler.clock import Clock
from scheduler.context import SchedulerContext
from scheduler.counters import Counters
from scheduler.errors import WorkerProtocolError
from scheduler.faults.suspects import Suspects, making_way
from scheduler.idle_memory import IdleMemory
from scheduler.keep_alive import KeepAlive
from scheduler.lifecycle import Lifecycle
from scheduler.listeners import CacheListener, Interruption, SequenceListener
from scheduler.models.model_loading import ModelLoading
from scheduler.models.served_models import ServedModels
from scheduler.policy import SchedulingPolicy
from scheduler.queue.fair_queue import FairQueue, queue_loads
from scheduler.requests import Requests
from scheduler.routing.placement import Placement
from scheduler.steps.planner import plan_step
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import StepDecision
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase


class SchedulerLoop:
    def __init__(
        self,
        clock: Clock,
        policy: SchedulingPolicy | None = None,
        *,
        caches: CacheListener | None = None,
        sequences: SequenceListener | None = None,
        counters: Counters | None = None,
    ) -> None:
        policy = policy or SchedulingPolicy()
        registry = WorkerRegistry(max_lease_steps=policy.max_lease_steps, prefill_limits=policy.prefill_limits)
        queue = FairQueue()
        self.context = context = SchedulerContext(
            clock=clock,
            workers=registry.workers,
            waiting=queue,
            wake=self.wake,
            sequence_listener=sequences or SequenceListener(),
            cache_listener=caches or CacheListener(),
            counters=counters or Counters(),
        )
        self.keep_alive = KeepAlive(clock, policy.keep_alive_s, on_expired=self.wake)
        self.lifecycle = Lifecycle(context, queue, self.keep_alive)
        self.loading = ModelLoading(context, self.lifecycle, self.keep_alive, grace_s=policy.worker_grace_s)
        self.requests = Requests(context, self.loading.served, self.lifecycle, policy)
        self._suspects = Suspects()
        self.attachments = Attachments(context, registry, self.lifecycle, self.loading, self._suspects)
        self._placement = Placement(context, policy.routing, takes_new=self.loading.takes_new)
        self._idle_memory = IdleMemory(context, policy.prefix_idle_s, self.loading.available_bytes)
        self.workers: Final = context.workers
        self.waiting: Final = context.waiting
        self.counters: Final = context.counters
        self.on_readiness_changed: Callable[[], object] = lambda: None
        self._is_awake = self._was_ready = False

    # ---- one round for all workers

    def wake(self) -> None:
        """Plan the next steps soon, but not immediately, so that everything that arrives together is planned together."""
        if not self._is_awake:
            self._is_awake = True
            self.context.clock.call_soon(self.fill_workers)

    def fill_workers(self) -> None:
        """Give every worker as many steps as it may have in flight. Then recall leases, and dismiss, load and unload."""
        self._is_awake = False
        self.attachments.move_sequences_off()
        self._placement.begin_rounds(self._clear_quarantine_workers())
        for worker in list(self.workers.values()):
            while worker.steps.has_room and self.step_worker(worker):
                pass
        self._placement.end_rounds()
        self._recall_leases()
        self.attachments.dismiss_leaving_workers()
        if self.requests.is_draining:
            self.attachments.dismiss_unwanted_workers(self.waiting.models)
        for unloading in self.loading.move_models():
            self.attachments.detach_worker(unloading)
        self._tell_readiness()
        self.lifecycle.open_requests.deliver_events()

    # ---- plan → run → apply

    def step_worker(self, worker: AttachedWorker) -> bool:
        """Plan and send one step. Return False if there was nothing to decide."""
        decision = self.plan_worker_step(worker)
        is_sent = self.run_worker_step(worker, decision)
        return is_sent or bool(decision.preempted or decision.outgrown)

    def plan_worker_step(self, worker: AttachedWorker) -> StepDecision:
        """Decide what the worker computes next, for its running sequences and the waiting ones that are placed there."""
        somebody_waits = self._somebody_waits(worker)
        waiting = self._placement.sequences_for_worker(worker) if somebody_waits else ()
        return plan_step(worker.running, waiting, worker.pool, worker.step_limits, somebody_waits=somebody_waits)

    def run_worker_step(self, worker: AttachedWorker, decision: StepDecision) -> bool:
        """Carry out a decision and send the step. Return False if nothing is left to send."""
        for sequence in decision.preempted:
            self._preempt_sequence(worker, sequence)
        for sequence in decision.outgrown:
            self.lifecycle.finish_sequence(sequence, FinishReason.LENGTH)
        for admission in decision.admissions:
            self.lifecycle.take_from_queue(admission.sequence)
        if (passed := decision.short_of_pages) is not None:
            passed.queue_place.num_passed_tokens += sum(admission.sequence.length for admission in decision.admissions)
        if not worker.is_busy:
            worker.prompt_speed.record_step_start(self.context.clock.time())
        plan = worker.carry_out_decision(decision)
        if plan is None:
            return False
        for planned in plan.scheduled:
            if planned.sequence in plan.new_sequences:
                self.lifecycle.record_admission(planned.sequence, num_cached_tokens=planned.start)
        worker.link.send_step(plan)
        return True

    def apply_result(self, worker: AttachedWorker, result: StepResult) -> None:
        """Apply the result of a step. Raises WorkerProtocolError if it is not the result that is due."""
        if self.workers.get(worker.info.worker_id) is not worker:
            raise WorkerProtocolError("this stream was replaced by a newer one of the same worker")
        step = worker.steps.take_answered_step(result.step_id)
        worker.prompt_speed.record_step_end(step.num_tokens, step.num_new_tokens, self.context.clock.time())
        self.counters.num_steps += step.num_tokens > 0
        self.counters.num_step_tokens += step.num_tokens
        for scored in result.scored:
            self._apply_scored(worker, scored)
        for sampled in result.sampled:
            sequence, attempt, max_new_tokens = step.sampling.pop(sampled.sequence_id, (None, 0, 0))
            if sequence is not None and attempt == sampled.attempt == sequence.computation.attempt:
                self._apply_sampled(worker, sequence, sampled, max_new_tokens)
        # The worker omits only sequences that it ended itself, and those have ended here too.
        for sequence, attempt, _ in step.sampling.values():
            if sequence.computation.attempt == attempt:
                raise WorkerProtocolError(f"step {result.step_id} has no token for sequence {sequence.sequence_id}")
        if result.next_is_last:
            worker.steps.end_lease()
        worker.steps.follow_lease()
        sealed = worker.sealed.take_final(step.step_id)
        self.context.cache_listener.blocks_changed(worker, worker.pool.take_evicted(), sealed)
        self.wake()
        self.lifecycle.open_requests.deliver_events()

    def _apply_scored(self, worker: AttachedWorker, scored: ScoredTokens) -> None:
        sequence = next((each for each in worker.running if each.sequence_id == scored.sequence_id), None)
        if sequence is not None and sequence.computation.attempt == scored.attempt:
            self.lifecycle.record_scored_tokens(sequence, scored)

    def _apply_sampled(
        self, worker: AttachedWorker, sequence: Sequence, sampled: SampledTokens, max_new_tokens: int
    ) -> None:
        self.lifecycle.record_sampled_tokens(sequence, sampled, max_new_tokens)
        if num_missing := max_new_tokens - len(sampled.token_ids):
            self.counters.num_step_tokens -= num_missing
            worker.steps.outdate_lease_without(sequence)
        if sampled.stopped:
            worker.stop_sequence(sequence)
        worker.seal_full_blocks(sequence)
        if sampled.stopped:
            reason = FinishReason.LENGTH if sampled.grammar_failed else FinishReason.STOP
            self.lifecycle.finish_sequence(sequence, reason, stop_token_id=sampled.stop_token_id)
        elif len(sequence.token_ids) >= sequence.max_length:
            self.lifecycle.finish_sequence(sequence, FinishReason.LENGTH)

    # ---- quarantine, leases, readiness

    def _clear_quarantine_workers(self) -> dict[str, AttachedWorker]:
        """Preempt all sequences but suspects on the quarantine workers. Return these workers by model."""
        quarantines = self._suspects.quarantine_workers(self.workers.values())
        for quarantine in quarantines.values():
            for sequence in making_way(quarantine):
                self._preempt_sequence(quarantine, sequence)
        return quarantines

    def _preempt_sequence(self, worker: AttachedWorker, sequence: Sequence) -> None:
        self.lifecycle.interrupt_sequence(worker, sequence, Interruption.PREEMPTED)
        # Workers that were served earlier in this round did not see that this sequence waits.
        self.wake()

    def _recall_leases(self) -> None:
        """End the leases that are outdated: a sequence waits, or one has left without the worker's knowledge."""
        for worker in self.workers.values():
            lease = worker.steps.lease
            if lease is not None and (lease.is_outdated or self._somebody_waits(worker)):
                worker.recall_lease()

    def _somebody_waits(self, worker: AttachedWorker) -> bool:
        return worker.info.model in self.waiting.models

    def _tell_readiness(self) -> None:
        if self.is_ready != self._was_ready:
            self._was_ready = self.is_ready
            self.on_readiness_changed()

    # ---- queries

    @property
    def models(self) -> ServedModels:
        return self.loading.served

    @property
    def is_ready(self) -> bool:
        """True if a request would be accepted and computed now."""
        is_any_serving = any(worker.phase is WorkerPhase.SERVING for worker in self.workers.values())
        return (is_any_serving or bool(self.loading.stores.unloaded)) and not self.requests.is_draining

    @property
    def num_running(self) -> int:
        return sum(len(worker.running) for worker in self.workers.values())

    def queue_loads(self) -> list[QueueLoad]:
        return queue_loads(self.waiting, self.context.clock.time())
