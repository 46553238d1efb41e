"""A driver that runs a model step by step with pages in random order, as an engine would, for tests of the logits."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from worker.kernels.interface import Kernels
from worker.kernels.step_batch import StepBatch
from worker.models.decoder import DecoderModel


@dataclass(slots=True, eq=False)
class RunningSequence:
    num_computed: int = 0
    page_ids: list[int] = field(default_factory=list)


class SteppedModel:
    def __init__(self, model: DecoderModel, kernels: Kernels, *, num_pages: int = 128, page_size: int = 16) -> None:
        config = model.config
        self._model = model
        self._page_size = page_size
        self.kv = [
            kernels.allocate_kv(num_pages, page_size, config.num_kv_heads, config.head_size)
            for _ in range(config.num_layers)
        ]
        self._free = list(range(num_pages))
        self._sequences: dict[str, RunningSequence] = {}

    def shuffle(self, seed: int) -> None:
        random.Random(seed).shuffle(self._free)

    def step(self, scheduled: Sequence[tuple[str, Sequence[int]]], *, padding_blocks: int = 0) -> list[torch.Tensor]:
        """Compute the next tokens of each named sequence and return the logits [tokens, V] of each, in this order."""
        running = [self._grow(name, len(tokens)) for name, tokens in scheduled]
        positions = [
            range(sequence.num_computed - len(tokens), sequence.num_computed)
            for sequence, (_, tokens) in zip(running, scheduled, strict=True)
        ]
        starts = [0]
        for _, tokens in scheduled:
            starts.append(starts[-1] + len(tokens))
        batch = StepBatch(
            token_ids_T=torch.tensor([token for _, tokens in scheduled for token in tokens]),
            positions_T=torch.tensor([p for span in positions for p in span]),
            slots_T=torch.tensor(
                [self._slot(sequence, p) for sequence, span in zip(running, positions, strict=True) for p in span]
            ),
            query_starts=tuple(starts),
            context_lens=tuple(sequence.num_computed for sequence in running),
            block_tables_SB=self._tables(running, padding_blocks),
            sample_rows_R=torch.arange(starts[-1]),
        )
        logits = self._model.forward(batch, self.kv)
        return [logits[start:end].clone() for start, end in pairwise(starts)]

    def run(self, name: str, token_ids: Sequence[int], chunks: Iterable[int] | None = None) -> torch.Tensor:
        """Compute a whole sequence alone, in chunks of these sizes, the last size for all further chunks; return its logits."""
        sizes = iter(chunks or [len(token_ids)])
        done, size, parts = 0, 0, []
        while done < len(token_ids):
            size = next(sizes, size)
            parts += self.step([(name, token_ids[done : done + size])])
            done += size
        return torch.cat(parts)

    def _grow(self, name: str, num_tokens: int) -> RunningSequence:
        sequence = self._sequences.setdefault(name, RunningSequence())
        sequence.num_computed += num_tokens
        while len(sequence.page_ids) * self._page_size < sequence.num_computed:
            sequence.page_ids.append(self._free.pop())
        return sequence

    def _slot(self, sequence: RunningSequence, position: int) -> int:
        block, offset = divmod(position, self._page_size)
        return sequence.page_ids[block] * self._page_size + offset

    def _tables(self, running: Sequence[RunningSequence], padding_blocks: int) -> torch.Tensor:
        width = max(len(sequence.page_ids) for sequence in running) + padding_blocks
        return torch.tensor([sequence.page_ids + [0] * (width - len(sequence.page_ids)) for sequence in running])
