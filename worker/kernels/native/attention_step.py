"""What the native attention kernel knows of a step: its items, block tables and scratch memory, in one structure.

A recorded launch keeps the structure's address, so a further step is described by filling it in anew. Knows nothing about
arithmetic.
"""

import ctypes
from dataclasses import dataclass

import torch

from worker.kernels.integer_attention import MAX_CONTEXT
from worker.kernels.native.attention_items import AttentionItems, plan_items
from worker.kernels.native.library import AttentionStep
from worker.kernels.scratch import Scratch
from worker.kernels.step_batch import StepBatch

MIN_KEYS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """Layers of one shape share a step's description."""

    queries_per_kv_head: int
    head_size: int
    window: int | None


class AttentionSteps:
    """One structure per shape, at the same address for good."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scratch = Scratch()
        self._steps: dict[AttentionShape, AttentionStep] = {}
        self._items: dict[AttentionShape, AttentionItems] = {}
        """What the structures point to."""
        self._batch: StepBatch | None = None

    def of(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep:
        """The shape's structure, filled in for this step."""
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
        assert items.max_keys <= MAX_CONTEXT, "the exact sums hold no longer context"
        num_queries = items.max_queries * shape.queries_per_kv_head
        # Room for a power of two, so that the same memory does while sequences grow.
        num_keys = max(MIN_KEYS, 1 << (items.max_keys - 1).bit_length())
        step.scratch_bytes = self._library.attention_scratch_bytes(num_queries, num_keys, shape.head_size)
        num_bytes = torch.get_num_threads() * step.scratch_bytes
        step.scratch = self._scratch.take(str(shape), (num_bytes,), torch.uint8).data_ptr()
        step.tables, step.table_width = items.tables_SB.data_ptr(), items.tables_SB.shape[1]
        step.items, step.num_items = items.items.data_ptr(), len(items.items)
        self._items[shape] = items
