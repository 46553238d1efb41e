"""Begins and finishes steps: apply what one says to the running sequences, have it computed, take the new tokens.

Owns the running sequences and whether a new token ends one. How a step is computed is the executor's business (executor.py).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from worker.steps.executor import Computed, LaunchedStep, StepExecutor
from worker.steps.sequence import Chunk, RunningSequences, find_stop
from worker.steps.step import Step


@dataclass(frozen=True, slots=True, eq=False)
class BegunStep:
    """What the engine gives for a step that it has begun, and takes back to finish it."""

    step: Step
    chunks: Sequence[Chunk]
    launched: LaunchedStep
    begin_ns: int
    """How long it took to begin it."""


class Engine:
    def __init__(
        self,
        executor: StepExecutor,
        *,
        page_size: int,
        num_pages: int,
        vocab_size: int,
        eos_token_ids: Iterable[int],
    ) -> None:
        self._executor = executor
        self._eos_token_ids = frozenset(eos_token_ids)
        self._sequences = RunningSequences(page_size=page_size, num_pages=num_pages, vocab_size=vocab_size)

    @property
    def max_in_flight(self) -> int:
        """How many steps may be begun and not finished."""
        return self._executor.max_in_flight

    @property
    def max_new_tokens(self) -> int:
        """The most new tokens that one step brings of one sequence."""
        return self._executor.max_new_tokens

    def reset(self) -> None:
        """Forget all sequences and begun steps: the session that knew them is over."""
        self._sequences.clear()
        self._executor.reset()

    def run_step(self, step: Step) -> StepResult:
        """Begin a step and finish it, where no other one is begun."""
        return self.finish_step(self.begin_step(step))

    def begin_step(self, step: Step) -> BegunStep:
        """Raises StepError if the step cannot be executed as it stands, DeviceLostError if none can be any more."""
        started = time.perf_counter_ns()
        chunks = self._sequences.apply(step)
        forgotten = (*step.finished_sequence_ids, *(new.sequence_id for new in step.new_sequences))
        try:
            launched = self._executor.launch(chunks, forgotten)
        except Exception:
            self._executor.check_usable()
            raise
        return BegunStep(step, chunks, launched, time.perf_counter_ns() - started)

    def finish_step(self, begun: BegunStep) -> StepResult:
        """Wait for the step that was begun first. Raises as `begin_step`, and SamplingError if the logits are unusable."""
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
        """Without the sequences that a step before this one has ended after this one had begun."""
        sampled = (chunk for chunk in chunks if chunk.is_sampled)
        for chunk, token_ids, logprobs in zip(sampled, computed.token_ids, computed.logprobs, strict=True):
            if not chunk.sequence.is_stopped:
                yield self._accept(chunk, token_ids, logprobs)

    def _accept(self, chunk: Chunk, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]) -> SampledTokens:
        """Up to the first token that ends the sequence."""
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
        )


def _scored(chunk: Chunk, logprobs: tuple[TokenLogprobs, ...]) -> ScoredTokens:
    sequence = chunk.sequence
    return ScoredTokens(
        sequence_id=sequence.sequence_id, attempt=sequence.attempt, start=chunk.start + 1, logprobs=logprobs
    )
