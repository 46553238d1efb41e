"""How one step's attention is cut into items for the native kernel: a few consecutive queries of one sequence each.

Knows nothing about arithmetic. Made once per step, used by each layer.
"""

from dataclasses import dataclass

import numpy as np
import torch

from worker.kernels.step_batch import StepBatch

MAX_ITEM_QUERIES = 8
"""Queries of one item, each with all query heads of a KV head: they share what is read of the keys."""
MAX_ITEM_SCORES = 1 << 16
"""Queries times keys of an item; bounds memory for long contexts. Half as many cost a tenth more at 8,192 keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionItems:
    items: torch.Tensor
    """int64 [items, 4]: sequence, first row of the step, number of rows, position of the first row. Longest first."""
    tables_SB: torch.Tensor
    max_queries: int
    max_keys: int


def plan_items(batch: StepBatch, window: int | None) -> AttentionItems:
    items: list[tuple[int, int, int, int]] = []
    max_keys = 1
    for sequence, context_len in enumerate(batch.context_lens):
        start, end = batch.query_starts[sequence : sequence + 2]
        seen_len = context_len if window is None else min(context_len, window + MAX_ITEM_QUERIES)
        max_keys = max(max_keys, seen_len)
        size = min(MAX_ITEM_QUERIES, max(1, MAX_ITEM_SCORES // seen_len))
        for first in range(start, end, size):
            items.append((sequence, first, min(size, end - first), context_len - (end - first)))
    items.sort(key=lambda item: item[2] * item[3], reverse=True)
    return AttentionItems(
        items=torch.from_numpy(np.array(items, np.int64)),
        tables_SB=batch.block_tables_SB.contiguous(),
        max_queries=max((item[2] for item in items), default=1),
        max_keys=max_keys,
    )
