"""The life of an accepted sequence: it waits, is admitted, gets new tokens, may wait again, and ends exactly once.

Only this module reports these events to the client, to tracing and to the counters. The steps and pages of a sequence on its worker
are in steps/worker_state.py.
"""

from collections.abc import Sequence as Seq
from dataclasses import replace

from pagoda.wire.finished import FinishReason
from pagoda.wire.step_result import SampledTokens, ScoredTokens
from scheduler.context import SchedulerContext
from scheduler.errors import RequestError, WorkerProtocolError
from scheduler.keep_alive import KeepAlive
from scheduler.listeners import Interruption
from scheduler.queue.drain_rate import DrainRate
from scheduler.queue.events import (
    Failed,
    finished_event,
    moved_event,
    prompt_logprobs_event,
    started_event,
    tokens_event,
)
from scheduler.queue.fair_queue import FairQueue
from scheduler.queue.open_requests import OpenRequest, OpenRequests
from scheduler.steps.sequence import Sequence, SequenceStatus
from scheduler.steps.worker_state import AttachedWorker


class Lifecycle:
    def __init__(self, context: SchedulerContext, queue: FairQueue, keep_alive: KeepAlive) -> None:
        """Take over the queue: `queue` is the one behind `context.waiting`."""
        self.open_requests = OpenRequests()
        self.drain_rate = DrainRate(context.clock.time)
        self._context = context
        self._queue = queue
        self._keep_alive = keep_alive
        self._listener = context.sequence_listener

    # ---- before the end

    def accept_request(self, opened: OpenRequest) -> None:
        """Queue the sequences of a request."""
        request, sequences = opened.request, list(opened.sequences.values())
        self.open_requests.add_request(opened)
        self._keep_alive.add_users(sequences[0].model, len(sequences))
        self._keep_alive.set_keep_alive(
            sequences[0].model, request.keep_alive_s, only_prolongs=request.keep_alive_only_prolongs
        )
        for sequence in sequences:
            self._enqueue_sequence(sequence)
            place, num_waiting = self._queue.place_in_line(sequence), len(self._queue)
            sequence.traceparent = self._listener.sequence_queued(
                sequence, request, place=place, num_waiting=num_waiting
            )

    def take_from_queue(self, sequence: Sequence) -> None:
        """Take a sequence out of the queue because it is admitted to a worker."""
        self._queue.dequeue_sequence(sequence)

    def record_admission(self, sequence: Sequence, num_cached_tokens: int) -> None:
        """Record that a sequence's first step on a worker is planned, and tell its client where it runs."""
        history = sequence.history
        if history.first_step_s is None:
            history.first_step_s = self._context.clock.time()
            history.num_cached_tokens = num_cached_tokens
            self._context.counters.num_prefix_queries += len(sequence.token_ids)
            self._context.counters.num_prefix_hits += num_cached_tokens
            self._queue.charge_tokens(sequence.tenant, num_prompt_tokens=len(sequence.token_ids) - num_cached_tokens)
            self.open_requests.post_event(sequence, started_event(sequence))
        elif sequence.has_moved:
            self.open_requests.post_event(sequence, moved_event(sequence))
        self._listener.sequence_admitted(sequence, num_cached_tokens=num_cached_tokens)
        history.admitted_before, history.has_lost_worker = sequence.computation.worker_id, False

    def record_scored_tokens(self, sequence: Sequence, scored: ScoredTokens) -> None:
        """Deliver log-probabilities of prompt tokens, except those that were delivered before a preemption.

        Raises WorkerProtocolError if some are missing.
        """
        start = sequence.num_scored
        if scored.start > start:
            raise WorkerProtocolError(
                f"log-probabilities of sequence {scored.sequence_id} begin at {scored.start} (expected: {start})"
            )
        if scored.start + len(scored.logprobs) > sequence.num_prompt_tokens:
            raise WorkerProtocolError(f"log-probabilities of sequence {scored.sequence_id} end after its prompt")
        if logprobs := scored.logprobs[start - scored.start :]:
            sequence.num_scored += len(logprobs)
            self.open_requests.post_event(sequence, prompt_logprobs_event(sequence, start, logprobs))

    def record_sampled_tokens(self, sequence: Sequence, sampled: SampledTokens, max_new_tokens: int) -> None:
        """Add and deliver the new tokens of a step. Raises WorkerProtocolError for no token, or more than `max_new_tokens`."""
        if not 1 <= len(sampled.token_ids) <= max_new_tokens:
            raise WorkerProtocolError(
                f"sequence {sampled.sequence_id} has {len(sampled.token_ids)} new tokens, which must be between 1 and "
                f"{max_new_tokens}"
            )
        event = tokens_event(sequence, sampled.token_ids, sampled.logprobs)
        sequence.append_tokens(sampled.token_ids, max_new_tokens)
        self._queue.charge_tokens(sequence.tenant, num_output_tokens=len(sampled.token_ids))
        if sequence.history.first_token_s is None:
            sequence.history.first_token_s = self._context.clock.time()
        self._listener.sequence_sampled(sequence)
        self.open_requests.post_event(sequence, event)

    def interrupt_sequence(self, worker: AttachedWorker, sequence: Sequence, why: Interruption) -> None:
        """Take a sequence off its worker and queue it again. It keeps its tokens."""
        worker.release_sequence(sequence)
        match why:
            case Interruption.PREEMPTED:
                sequence.history.num_preemptions += 1
                self._context.counters.num_preemptions += 1
            case Interruption.WORKER_LOST:
                sequence.history.has_lost_worker = True
        self._listener.sequence_interrupted(sequence, why)
        self._enqueue_sequence(sequence)

    def _enqueue_sequence(self, sequence: Sequence) -> None:
        if not self._queue:
            self.drain_rate.start_interval()
        self._queue.enqueue_sequence(sequence)

    # ---- the end

    def finish_sequence(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        stop_token_id: int | None = None,
        num_output_tokens: int | None = None,
    ) -> None:
        """End a sequence. `num_output_tokens` is set if its client found an earlier end, such as a stop string."""
        event = finished_event(sequence, reason, now_s=self._context.clock.time())
        if stop_token_id is not None:
            event = replace(event, stop_token_id=stop_token_id)
        if num_output_tokens is not None:
            event = replace(event, usage=replace(event.usage, num_output_tokens=num_output_tokens))
        self.open_requests.post_event(sequence, event)
        self._listener.sequence_finished(sequence, reason)
        self._remove_sequence(sequence)

    def fail_sequences(self, sequences: Seq[Sequence], error: RequestError) -> None:
        """Fail the requests of these sequences. All samples of a request fail together, with one error."""
        for sequence in sequences:
            if sequence.status is not SequenceStatus.ENDED:
                self.fail_request(self.open_requests.request_of(sequence), error)

    def fail_request(self, opened: OpenRequest, error: RequestError) -> None:
        sequences = list(opened.sequences.values())
        self.open_requests.post_event(sequences[0], Failed(request_id=opened.request.request_id, error=error))
        for sequence in sequences:
            self._listener.sequence_failed(sequence, error)
            self._remove_sequence(sequence)

    def _remove_sequence(self, sequence: Sequence) -> None:
        """Take a sequence off its worker, or out of the queue, for good."""
        if sequence.status is SequenceStatus.RUNNING:
            self._context.workers[sequence.computation.worker_id or ""].release_sequence(sequence)
        else:
            self._queue.dequeue_sequence(sequence)
        sequence.mark_ended()
        self.drain_rate.record_end(somebody_waits=bool(self._queue))
        self._keep_alive.remove_user(sequence.model)
        self.open_requests.remove_sequence(sequence)
