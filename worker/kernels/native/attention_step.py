"""The structure that describes a step to the native attention kernel: its items, block tables and scratch memory.

An item is a few consecutive queries of one sequence. Items are planned once per step and used by each layer. A recorded launch
keeps the structure's address, so each step fills in the same structure again.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch

from worker.kernels.attention_plan import MAX_WINDOW
from worker.kernels.native.bindings import AttentionStep
from worker.kernels.scratch import Scratch
from worker.kernels.step_batch import StepBatch

MAX_ITEM_QUERIES = 8
"""Maximum queries of one item, each with all query heads of a KV head; they share the reading of keys."""
MAX_ITEM_SCORES = 1 << 16
"""Maximum queries times keys of an item; limits memory for long contexts. Half as many take a tenth more time at 8,192 keys."""
MIN_KEYS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionItems:
    items: torch.Tensor
    """int64 [items, 4]: sequence, first row of the step, number of rows, position of the first row. Longest first."""
    tables_SB: torch.Tensor
    max_queries: int
    max_keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """The properties of a layer that its attention structure depends on; layers with the same shape share it."""

    queries_per_kv_head: int
    head_size: int
    num_parts: int
    """Number of parts of a head that have a scale each."""
    window: int | None


class AttentionSteps:
    """The structures of the current step, one per shape, each at an address that never changes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scratch = Scratch()
        self._steps: dict[AttentionShape, AttentionStep] = {}
        self._items: dict[AttentionShape, AttentionItems] = {}
        """The memory to which the structures point."""
        self._batch: StepBatch | None = None

    def of(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep:
        """Return the shape's structure, filled in for this step."""
        self.describe(batch)
        if shape not in self._steps:
            self._steps[shape] = AttentionStep()
            self._fill_in(shape, batch)
        return self._steps[shape]

    def describe(self, batch: StepBatch) -> None:
        """Fill in all structures, once for each step."""
        if self._batch is not batch:
            self._batch = batch
            for shape in self._steps:
                self._fill_in(shape, batch)

    def _fill_in(self, shape: AttentionShape, batch: StepBatch) -> None:
        step, items = self._steps[shape], plan_items(batch, shape.window)
        num_queries = items.max_queries * shape.queries_per_kv_head
        # The size is a power of two, so that the same memory is enough while sequences grow.
        num_keys = max(MIN_KEYS, 1 << (items.max_keys - 1).bit_length())
        step.scratch_bytes = self._library.attention_scratch_bytes(
            num_queries, num_keys, shape.head_size, shape.num_parts
        )
        num_bytes = torch.get_num_threads() * step.scratch_bytes
        step.scratch = self._scratch.take(str(shape), (num_bytes,), torch.uint8).data_ptr()
        step.tables, step.table_width = items.tables_SB.data_ptr(), items.tables_SB.shape[1]
        step.items, step.num_items = items.items.data_ptr(), len(items.items)
        self._items[shape] = items


def plan_items(batch: StepBatch, window: int | None) -> AttentionItems:
    items: list[tuple[int, int, int, int]] = []
    max_keys = 1
    for sequence, context_len in enumerate(batch.context_lens):
        start, end = batch.query_starts[sequence : sequence + 2]
        seen_len = context_len
        if window is not None and window <= MAX_WINDOW:
            seen_len = min(context_len, window + MAX_ITEM_QUERIES)
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
