"""The executor on the processor: when a step is waited for, it builds the batch, runs the model and chooses the tokens.

A constraint may leave one token only, several times in a row. These forced tokens join the batch behind the last known token, so
that one step returns all of them and a sampled one. The masks of the sampled tokens are computed while the model runs.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pagoda.wire.logprobs import TokenLogprobs
from worker.constraints.guides import BegunMasks, Guides
from worker.errors import StepError
from worker.kernels.device_health import check_device
from worker.kernels.interface import LayerKV
from worker.kernels.sampling import ChooseTokens, choose_tokens
from worker.kernels.step_batch import StepBatch
from worker.kv_memory import KVMemory
from worker.steps.batch import build_batch
from worker.steps.executor import Computed, DeferredStep
from worker.steps.sampler import sample_tokens, token_logprobs
from worker.steps.sequence import Chunk, RunningSequence

MAX_NEW_TOKENS = 16
"""Maximum number of new tokens in a step: those that a constraint forces, and a sampled one."""
_CPU = torch.device("cpu")


class StepModel(Protocol):
    """The part of a decoder that the executor uses: token ids in, logits of the sampled rows out."""

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        """Return float32 [R, V], the logits of the rows that `batch.sample_rows_R` names."""


class HostExecutor:
    """A `StepExecutor` on the processor. If the model runs on a device, the processor waits for it."""

    max_in_flight = 1

    def __init__(
        self,
        model: StepModel,
        kv: KVMemory,
        eos_token_ids: Iterable[int],
        choose: ChooseTokens = choose_tokens,
        device: torch.device = _CPU,
        guides: Guides | None = None,
    ) -> None:
        """Create the executor. Without `guides` it gets no constrained sequences."""
        self._model = model
        self._kv = kv
        self._eos_token_ids = frozenset(eos_token_ids)
        self._choose = choose
        self._device = device
        self._guides = guides
        self.max_new_tokens = 1 if guides is None else MAX_NEW_TOKENS

    def launch(self, chunks: Sequence[Chunk], forgotten: Sequence[int]) -> DeferredStep:
        """Return the step. The executor keeps no state of sequences but that of their constraints."""
        if self._guides is not None:
            self._guides.forget(forgotten)
            self._guides.prepare(chunk.sequence for chunk in chunks)
        return DeferredStep(self.compute, chunks)

    def reset(self) -> None:
        if self._guides is not None:
            self._guides.clear()

    def check_usable(self) -> None:
        check_device(self._device)

    @torch.inference_mode()
    def compute(self, chunks: Sequence[Chunk]) -> Computed:
        """Compute a step and return its tokens. Raises SamplingError if the logits are unusable."""
        chunks = list(map(self._with_forced, chunks))
        sampled = [chunk for chunk in chunks if chunk.is_sampled]
        begun_masks = self._begin_masks([chunk.sequence for chunk in sampled])
        logits_RV = self._model.forward(build_batch(chunks, self._kv.page_size), self._kv.layers).cpu().numpy()
        scored, last_rows, row = [], [], 0
        for chunk in chunks:
            if chunk.num_scored:
                scored.append(_score(chunk, logits_RV[row : row + chunk.num_scored]))
                row += chunk.num_scored
            if chunk.is_sampled:
                row += chunk.num_forced_rows + 1
                last_rows.append(row - 1)
        masks = begun_masks.wait()
        token_ids = sample_tokens(
            logits_RV if len(last_rows) == len(logits_RV) else logits_RV[last_rows],
            [chunk.sequence for chunk in sampled],
            self._eos_token_ids,
            self._choose,
            masks,
        )
        new_ids = [(*chunk.forced_ids, token_id) for chunk, token_id in zip(sampled, token_ids, strict=True)]
        logprobs = [
            _logprobs(chunk, ids, logits_RV[last - chunk.num_forced_rows : last + 1])
            for chunk, ids, last in zip(sampled, new_ids, last_rows, strict=True)
        ]
        return Computed(new_ids, logprobs, scored, frozenset(each for each, mask in masks.items() if mask.is_failed))

    def _with_forced(self, chunk: Chunk) -> Chunk:
        """Return the chunk with the tokens that its constraint forces: they are computed together with their predecessor."""
        if self._guides is None or chunk.sequence.sampling.constraint is None:
            return chunk
        return chunk.with_forced(self._guides.take_forced(chunk.sequence, chunk.max_new_tokens - 1))

    def _begin_masks(self, sequences: Sequence[RunningSequence]) -> BegunMasks:
        constrained = [sequence for sequence in sequences if sequence.sampling.constraint is not None]
        if not constrained:
            return BegunMasks(())
        if self._guides is None:
            raise StepError(f"sequence {constrained[0].sequence_id} has a constraint, but the worker has no vocabulary")
        return self._guides.begin_masks(constrained)


def _score(chunk: Chunk, logits_RV: NDArray[np.float32]) -> tuple[TokenLogprobs, ...]:
    """Return the log-probabilities of the prompt tokens that follow the scored ones: each row predicts the next token."""
    first = chunk.start + 1
    token_ids = chunk.sequence.token_ids[first : first + len(logits_RV)]
    num_top = chunk.sequence.sampling.num_prompt_logprobs or 0
    return tuple(
        token_logprobs(logits_V, token_id, num_top) for logits_V, token_id in zip(logits_RV, token_ids, strict=True)
    )


def _logprobs(chunk: Chunk, token_ids: Sequence[int], logits_RV: NDArray[np.float32]) -> tuple[TokenLogprobs, ...]:
    sampling = chunk.sequence.sampling
    if sampling.num_logprobs is None:
        return ()
    return tuple(
        token_logprobs(logits_V, token_id, sampling.num_logprobs, sampling.logprob_token_ids)
        for logits_V, token_id in zip(logits_RV, token_ids, strict=True)
    )
