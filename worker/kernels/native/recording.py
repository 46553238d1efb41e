"""Recording a step's launches once, and replaying them in one native call for every further step, as a CUDA graph does.

The model's forward is run with a few tokens and a launcher that only writes down. A launch's structure holds addresses; those of
intermediate results are found by the memory that was handed out, and rewritten to lie in an arena that has room for the
steps to come. Knows nothing about what a kernel computes.

Legend as in batch.py.
"""

import ctypes
import sys
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from numpy.typing import NDArray

from worker.kernels.native.attention_step import AttentionShape, AttentionSteps
from worker.kernels.native.library import POINTER, AttentionStep, Call
from worker.kernels.step_batch import StepBatch


class Rows(IntEnum):
    """What a result has a row for. The values are those of `struct launch`."""

    TOKENS = 0
    SAMPLES = 1


NUM_RECORDED = {3: Rows.TOKENS, 2: Rows.SAMPLES}
"""So many rows in the recorded step tell which they are; several, so that strides are what they will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLaunch:
    kernel: str
    call: Call
    rows: Rows


@dataclass(slots=True, eq=False, kw_only=True)
class Buffer:
    """Memory of one intermediate result, input or output, or scratch memory."""

    tensor: torch.Tensor
    array: NDArray[Any]
    """The same memory."""
    rows: Rows
    first: int = sys.maxsize
    last: int = -1
    uses: list[tuple[Call, str, int]] = field(default_factory=list)
    """Structure, field, and bytes from the buffer's start."""

    @property
    def bytes_per_row(self) -> int:
        return self.tensor.nbytes // len(self.tensor)

    @property
    def is_used(self) -> bool:
        return self.first <= self.last

    def touch(self, launch: int) -> None:
        self.first, self.last = min(self.first, launch), max(self.last, launch)


class Recorder:
    """A launcher that writes down."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.launches: list[RecordedLaunch] = []
        self.buffers: list[Buffer] = []
        self.attention = AttentionSteps(library)

    def new(self, num_rows: int, *row_shape: int) -> torch.Tensor:
        return self.buffer(num_rows, *row_shape, dtype=torch.float32)

    def scratch(self, place: str, num_rows: int, row_size: int, dtype: torch.dtype) -> torch.Tensor:
        return self.buffer(num_rows, row_size, dtype=dtype)

    def buffer(self, num_rows: int, *row_shape: int, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(num_rows, *row_shape, dtype=dtype)
        self.buffers.append(Buffer(tensor=tensor, array=tensor.numpy(), rows=NUM_RECORDED[num_rows]))
        return tensor

    def attention_step(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep:
        return self.attention.of(batch, shape)

    def launch(self, kernel: str, call: Call, num_rows: int) -> None:
        self.launches.append(RecordedLaunch(kernel=kernel, call=call, rows=NUM_RECORDED[num_rows]))

    def batch(self) -> StepBatch:
        """Of the recorded step: its tensors are buffers like any other, to be filled in before a replay."""
        num_tokens, num_samples = NUM_RECORDED
        return StepBatch(
            token_ids_T=self.buffer(num_tokens, dtype=torch.int64),
            positions_T=self.buffer(num_tokens, dtype=torch.int64),
            slots_T=self.buffer(num_tokens, dtype=torch.int64),
            query_starts=(0, num_tokens),
            context_lens=(num_tokens,),
            block_tables_SB=torch.zeros(1, 1, dtype=torch.int64),
            sample_rows_R=self.buffer(num_samples, dtype=torch.int64),
        )

    def find_uses(self) -> None:
        """Which launch touches which buffer: all addresses that lie in memory handed out here; others are weights or KV memory."""
        buffers = sorted((buffer for buffer in self.buffers if buffer.tensor.nbytes), key=_start)
        starts = [_start(buffer) for buffer in buffers]
        for index, launch in enumerate(self.launches):
            for name, address in _addresses(launch.call):
                buffer = buffers[bisect_right(starts, address) - 1]
                offset = address - _start(buffer)
                if 0 <= offset < buffer.tensor.nbytes:
                    assert offset < buffer.bytes_per_row, "a launch begins at a row of its own"
                    buffer.touch(index)
                    buffer.uses.append((launch.call, name, offset))

    def buffer_of(self, tensor: torch.Tensor) -> Buffer:
        return next(buffer for buffer in self.buffers if _start(buffer) == tensor.data_ptr())


def _start(buffer: Buffer) -> int:
    return buffer.tensor.data_ptr()


def _addresses(call: Call) -> list[tuple[str, int]]:
    """All of a structure that are not null."""
    fields: list[tuple[str, type]] = list(call._fields_)
    addresses = [(name, getattr(call, name)) for name, kind in fields if kind is POINTER]
    return [(name, address) for name, address in addresses if address]
