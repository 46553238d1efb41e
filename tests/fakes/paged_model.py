"""A decoder without weights whose logits depend on every token of a sequence, its order and its place in KV memory.

It writes tokens through the slots and reads them back through the block tables, as attention does. A wrong slot, page, position
or row gives other logits, and so other tokens.
"""

import bisect
from collections.abc import Sequence

import torch

from worker.kernels.interface import LayerKV
from worker.kernels.step_batch import StepBatch
from worker.kv_memory import KVMemory

VOCAB_SIZE = 53
_LARGE_PRIME = 1_000_003


class PagedTokens:
    """One layer's "keys and values": what was written to each slot."""

    def __init__(self, num_slots: int) -> None:
        self.slots = torch.full((num_slots,), -1, dtype=torch.int64)


def paged_tokens(*, num_pages: int, page_size: int) -> KVMemory:
    layers = [PagedTokens(num_pages * page_size)]
    return KVMemory(layers=layers, page_size=page_size, num_pages=num_pages, num_bytes=num_pages * page_size * 8)


class PagedModel:
    """A `worker.steps.engine.StepModel` without weights."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self.num_tokens_of_steps: list[int] = []

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        [memory] = kv
        assert isinstance(memory, PagedTokens)
        self.num_tokens_of_steps.append(len(batch.token_ids_T))
        memory.slots[batch.slots_T] = batch.token_ids_T + VOCAB_SIZE * batch.positions_T
        logits = [self._logits(batch, memory, row) for row in batch.sample_rows_R.tolist()]
        return torch.stack(logits) if logits else torch.empty(0, VOCAB_SIZE)

    def _logits(self, batch: StepBatch, memory: PagedTokens, row: int) -> torch.Tensor:
        index = bisect.bisect_right(batch.query_starts, row) - 1
        positions = torch.arange(int(batch.positions_T[row]) + 1)
        pages = batch.block_tables_SB[index][positions // self._page_size]
        context = memory.slots[pages * self._page_size + positions % self._page_size]
        state = int((context * (positions * 7919 + 1)).sum()) % _LARGE_PRIME
        return (torch.arange(1, VOCAB_SIZE + 1) * (state + 1) * 48271 % _LARGE_PRIME).float() / _LARGE_PRIME * 8
