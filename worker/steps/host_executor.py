"""The executor on the processor: when a step is waited for, it builds the batch, runs the model and chooses the tokens."""

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

_CPU = torch.device("cpu")


class StepModel(Protocol):
    """The part of a decoder that the executor uses: token ids in, logits of the sampled rows out."""

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        """Return float32 [R, V], the logits of the rows that `batch.sample_rows_R` names."""


class HostExecutor:
    """A `StepExecutor` on the processor. If the model runs on a device, the processor waits for it."""

    max_in_flight = 1
    max_new_tokens = 1

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
        sequences = [chunk.sequence for chunk in chunks if chunk.is_sampled]
        begun_masks = self._begin_masks(sequences)
        logits_RV = self._model.forward(build_batch(chunks, self._kv.page_size), self._kv.layers).cpu().numpy()
        scored, sampled_rows, row = [], [], 0
        for chunk in chunks:
            if chunk.num_scored:
                scored.append(_score(chunk, logits_RV[row : row + chunk.num_scored]))
                row += chunk.num_scored
            if chunk.is_sampled:
                sampled_rows.append(row)
                row += 1
        if scored:
            logits_RV = logits_RV[sampled_rows]
        token_ids = sample_tokens(logits_RV, sequences, self._eos_token_ids, self._choose, begun_masks.wait())
        logprobs = [
            _logprobs(sequence.sampling.num_logprobs, token_id, logits_V)
            for sequence, token_id, logits_V in zip(sequences, token_ids, logits_RV, strict=True)
        ]
        return Computed([(token_id,) for token_id in token_ids], logprobs, scored)

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


def _logprobs(num_top: int | None, token_id: int, logits_V: NDArray[np.float32]) -> tuple[TokenLogprobs, ...]:
    return () if num_top is None else (token_logprobs(logits_V, token_id, num_top),)
