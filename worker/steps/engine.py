"""The engine: it applies a step to the running sequences, has it computed, and takes the new tokens.

It owns the running sequences and decides whether a new token ends one. The executor decides how a step is computed
(executor.py).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from worker.errors import StepError
from worker.steps.executor import Computed, LaunchedStep, StepExecutor
from worker.steps.sequence import Chunk, RunningSequences, find_stop
from worker.steps.step import Step


@dataclass(frozen=True, slots=True, eq=False)
class BegunStep:
    """A step that the engine has begun; pass it to `Engine.finish_step`."""

    step: Step
    chunks: Sequence[Chunk]
    launched: LaunchedStep
    begin_ns: int
    """Time that beginning the step took, in nanoseconds."""


class Engine:
    def __init__(
        self,
        executor: StepExecutor,
        *,
        page_size: int,
        num_pages: int,
        vocab_size: int,
        eos_token_ids: Iterable[int],
        return_pages: Callable[[Sequence[range]], object] | None = None,
    ) -> None:
        """Create the engine. `return_pages` is called with pages that hold nothing, between two steps."""
        self._return_pages = return_pages
        self._num_pages = num_pages
        self._executor = executor
        self._eos_token_ids = frozenset(eos_token_ids)
        self._sequences = RunningSequences(page_size=page_size, num_pages=num_pages, vocab_size=vocab_size)

    @property
    def max_in_flight(self) -> int:
        """Maximum number of steps that are begun and not finished."""
        return self._executor.max_in_flight

    @property
    def max_new_tokens(self) -> int:
        """Maximum number of new tokens that one step makes for one sequence."""
        return self._executor.max_new_tokens

    def reset(self) -> None:
        """Forget all sequences and begun steps, because their session is over."""
        self._sequences.clear()
        self._executor.reset()

    def run_step(self, step: Step) -> StepResult:
        """Begin and finish a step; no other step may be begun."""
        return self.finish_step(self.begin_step(step))

    def begin_step(self, step: Step) -> BegunStep:
        """Begin a step. Raises StepError if the step is invalid, DeviceLostError if the device can compute no step any more."""
        started = time.perf_counter_ns()
        self._take_idle(step)
        chunks = self._sequences.apply(step)
        forgotten = (*step.finished_sequence_ids, *(new.sequence_id for new in step.new_sequences))
        try:
            launched = self._executor.launch(chunks, forgotten)
        except Exception:
            self._executor.check_usable()
            raise
        return BegunStep(step, chunks, launched, time.perf_counter_ns() - started)

    def _take_idle(self, step: Step) -> None:
        """Return the memory of idle pages. Raises StepError for a page that does not exist."""
        for run in step.idle_pages:
            if run.stop > self._num_pages:
                raise StepError(
                    f"step {step.step_id} has the idle page {run.stop - 1}; there are {self._num_pages} pages"
                )
        if step.idle_pages and self._return_pages is not None:
            self._return_pages(step.idle_pages)

    def finish_step(self, begun: BegunStep) -> StepResult:
        """Wait for the oldest begun step and return its result.

        Raises what `begin_step` raises, and SamplingError if the logits are unusable.
        """
        started = time.perf_counter_ns()
        computed = self._wait(begun.launched)
        scored = tuple(map(_scored, (chunk for chunk in begun.chunks if chunk.num_scored), computed.scored))
        sampled = tuple(self._take(begun.chunks, computed))
        step_us = (begun.begin_ns + time.perf_counter_ns() - started) // 1000
        return StepResult(step_id=begun.step.step_id, sampled=sampled, scored=scored, step_us=step_us)

    def _wait(self, launched: LaunchedStep) -> Computed:
        try:
            return launched.wait()
        except Exception:
            self._executor.check_usable()
            raise

    def _take(self, chunks: Sequence[Chunk], computed: Computed) -> Iterable[SampledTokens]:
        """Yield the new tokens, except for sequences that an earlier step ended after this step had begun."""
        sampled = (chunk for chunk in chunks if chunk.is_sampled)
        for chunk, token_ids, logprobs in zip(sampled, computed.token_ids, computed.logprobs, strict=True):
            if not chunk.sequence.is_stopped:
                has_failed = chunk.sequence.sequence_id in computed.failed_ids
                yield self._accept(chunk, token_ids, logprobs, has_failed=has_failed)

    def _accept(
        self, chunk: Chunk, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...], *, has_failed: bool
    ) -> SampledTokens:
        """Append the new tokens to the sequence, up to the first one that ends it."""
        sequence = chunk.sequence
        sequence.settle(chunk)
        num_taken, stop = 0, None
        while stop is None and num_taken < len(token_ids):
            token_id = token_ids[num_taken]
            sequence.append(token_id)
            stop = find_stop(sequence.sampling, token_id, self._eos_token_ids)
            num_taken += 1
        sequence.is_stopped = stop is not None
        return SampledTokens(
            sequence_id=sequence.sequence_id,
            attempt=sequence.attempt,
            token_ids=token_ids[:num_taken],
            logprobs=logprobs[:num_taken],
            stopped=sequence.is_stopped,
            stop_token_id=stop.stop_token_id if stop else None,
            grammar_failed=has_failed and stop is not None and stop.stop_token_id is None,
        )


def _scored(chunk: Chunk, logprobs: tuple[TokenLogprobs, ...]) -> ScoredTokens:
    sequence = chunk.sequence
    return ScoredTokens(
        sequence_id=sequence.sequence_id, attempt=sequence.attempt, start=chunk.start + 1, logprobs=logprobs
    )
