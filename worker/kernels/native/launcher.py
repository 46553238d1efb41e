"""Where a kernel's launch goes: to the processor at once, or into a recording (recording.py)."""

import ctypes
from typing import Protocol

import torch

from worker.kernels.native.attention_step import AttentionShape, AttentionSteps
from worker.kernels.native.bindings import AttentionStep, Call
from worker.kernels.scratch import Scratch
from worker.kernels.step_batch import StepBatch


class Launcher(Protocol):
    def new(self, num_rows: int, *row_shape: int) -> torch.Tensor:
        """Uninitialized float32 [num_rows, *row_shape] for a kernel's result."""

    def scratch(self, place: str, num_rows: int, row_size: int, dtype: torch.dtype) -> torch.Tensor:
        """Uninitialized memory that nobody reads after the next launch."""

    def attention_step(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep: ...

    def launch(self, kernel: str, call: Call, num_rows: int) -> None:
        """Compute so many rows, now or whenever it is replayed."""


class Eager:
    """Each launch runs at once."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scratch = Scratch()
        self._attention = AttentionSteps(library)

    def new(self, num_rows: int, *row_shape: int) -> torch.Tensor:
        return torch.empty(num_rows, *row_shape)

    def scratch(self, place: str, num_rows: int, row_size: int, dtype: torch.dtype) -> torch.Tensor:
        return self._scratch.take(place, (num_rows * row_size,), dtype)

    def attention_step(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep:
        return self._attention.of(batch, shape)

    def launch(self, kernel: str, call: Call, num_rows: int) -> None:
        self._library.set_threads(torch.get_num_threads())
        getattr(self._library, kernel)(ctypes.byref(call), num_rows)
