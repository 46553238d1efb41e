"""The worker's model code over pages of KV memory, which returns all of a window's log-probabilities."""

from collections.abc import Sequence

import torch

from bench.quality.emulation import EmulatedKernels, Format
from bench.quality.text import WINDOW
from pagoda.models.model import Model
from worker.kernels.interface import Kernels
from worker.kernels.step_batch import StepBatch
from worker.models.families import load_model

PAGE_SIZE = 16


class WindowModel:
    """A model with the given kernels and pages for one window."""

    def __init__(self, model: Model, kernels: Kernels) -> None:
        config = model.config
        self._decoder = load_model(model, kernels)
        self._kv = [
            kernels.allocate_kv(-(-WINDOW // PAGE_SIZE), PAGE_SIZE, config.num_kv_heads, config.head_size)
            for _ in range(config.num_layers)
        ]

    def logprobs(self, window: Sequence[int]) -> torch.Tensor:
        """Return log-probabilities [tokens - 1, V]: row i is the distribution of token i + 1."""
        return self.logprobs_of_each([window])

    def logprobs_of_each(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the log-probabilities of several texts of the same length, one after the other, each computed alone."""
        size, num_pages = len(texts[0]), -(-len(texts[0]) // PAGE_SIZE)
        count, places = len(texts), torch.arange(size)
        batch = StepBatch(
            token_ids_T=torch.tensor([token_id for text in texts for token_id in text]),
            positions_T=places.repeat(count),
            slots_T=torch.cat([places + number * num_pages * PAGE_SIZE for number in range(count)]),
            query_starts=tuple(range(0, (count + 1) * size, size)),
            context_lens=(size,) * count,
            block_tables_SB=torch.arange(count * num_pages).view(count, num_pages),
            sample_rows_R=torch.cat([places[:-1] + number * size for number in range(count)]),
        )
        return self._decoder.forward(batch, self._kv).log_softmax(dim=-1)


class EmulatedModel:
    """A float32 model that computes in any emulated format."""

    def __init__(self, model: Model) -> None:
        self._kernels = EmulatedKernels()
        self._model = WindowModel(model, self._kernels)

    def logprobs_of_each(self, number_format: Format, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        self._kernels.format = number_format
        return self._model.logprobs_of_each(texts)
