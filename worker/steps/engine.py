"""Runs one step: apply what it says to the running sequences, build the batch, run the model, sample.

Owns the running sequences and whether a sampled token ends one. Knows nothing about queues, users, limits or networks.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from worker.kernels.interface import LayerKV
from worker.kernels.sampling import ChooseTokens, choose_tokens
from worker.kernels.step_batch import StepBatch
from worker.memory.kv_memory import KVMemory
from worker.steps.batch import build_batch
from worker.steps.sampler import sample_tokens, token_logprobs
from worker.steps.sequence import Chunk, RunningSequence, RunningSequences, find_stop
from worker.steps.step import Step


class StepModel(Protocol):
    """What the engine needs of a decoder: token ids in, logits of the sampled rows out."""

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        """float32 [R, V], for the rows that `batch.sample_rows_R` names."""


class Engine:
    def __init__(
        self,
        model: StepModel,
        kv: KVMemory,
        vocab_size: int,
        eos_token_ids: Iterable[int],
        choose: ChooseTokens = choose_tokens,
    ) -> None:
        self._model = model
        self._kv = kv
        self._eos_token_ids = frozenset(eos_token_ids)
        self._choose = choose
        self._sequences = RunningSequences(page_size=kv.page_size, num_pages=kv.num_pages, vocab_size=vocab_size)

    def reset(self) -> None:
        """Forget all sequences: the session that knew them is over."""
        self._sequences.clear()

    @torch.inference_mode()
    def run_step(self, step: Step) -> StepResult:
        """Raises StepError if the step cannot be executed as it stands, SamplingError if the logits are unusable."""
        started = time.perf_counter_ns()
        chunks = self._sequences.apply(step)
        sampled, scored = self._compute(chunks) if chunks else ([], [])
        step_us = (time.perf_counter_ns() - started) // 1000
        return StepResult(step_id=step.step_id, sampled=tuple(sampled), scored=tuple(scored), step_us=step_us)

    def _compute(self, chunks: Sequence[Chunk]) -> tuple[list[SampledTokens], list[ScoredTokens]]:
        logits_RV = self._model.forward(build_batch(chunks, self._kv.page_size), self._kv.layers).cpu().numpy()
        scored, sampled_rows, row = [], [], 0
        for chunk in chunks:
            if chunk.num_scored:
                scored.append(_score(chunk, logits_RV[row : row + chunk.num_scored]))
                row += chunk.num_scored
            if chunk.max_new_tokens:
                sampled_rows.append(row)
                row += 1
        if scored:
            logits_RV = logits_RV[sampled_rows]
        return self._sample([chunk.sequence for chunk in chunks if chunk.max_new_tokens], logits_RV), scored

    def _sample(self, sequences: Sequence[RunningSequence], logits_RV: NDArray[np.float32]) -> list[SampledTokens]:
        token_ids = sample_tokens(logits_RV, sequences, self._eos_token_ids, self._choose)
        return [
            self._accept(sequence, token_id, logits_V)
            for sequence, token_id, logits_V in zip(sequences, token_ids, logits_RV, strict=True)
        ]

    def _accept(self, sequence: RunningSequence, token_id: int, logits_V: NDArray[np.float32]) -> SampledTokens:
        sequence.append(token_id)
        stop = find_stop(sequence.sampling, token_id, self._eos_token_ids)
        sequence.is_stopped = stop is not None
        return SampledTokens(
            sequence_id=sequence.sequence_id,
            attempt=sequence.attempt,
            token_ids=(token_id,),
            logprobs=_logprobs(sequence, token_id, logits_V),
            stopped=sequence.is_stopped,
            stop_token_id=stop.stop_token_id if stop else None,
        )


def _score(chunk: Chunk, logits_RV: NDArray[np.float32]) -> ScoredTokens:
    """Each row says how probable the token behind it was."""
    sequence, first = chunk.sequence, chunk.start + 1
    token_ids = sequence.token_ids[first : first + len(logits_RV)]
    num_top = sequence.sampling.num_prompt_logprobs or 0
    return ScoredTokens(
        sequence_id=sequence.sequence_id,
        attempt=sequence.attempt,
        start=first,
        logprobs=tuple(
            token_logprobs(logits_V, token_id, num_top) for logits_V, token_id in zip(logits_RV, token_ids, strict=True)
        ),
    )


def _logprobs(sequence: RunningSequence, token_id: int, logits_V: NDArray[np.float32]) -> tuple[TokenLogprobs, ...]:
    num_top = sequence.sampling.num_logprobs
    return () if num_top is None else (token_logprobs(logits_V, token_id, num_top),)
