"""The interface of what receives the native kernels' launches, and the receiver that runs each immediately."""

import ctypes
from typing import Protocol

import torch

from worker.kernels.native.attention_step import AttentionShape, AttentionSteps
from worker.kernels.native.bindings import AttentionStep, Call, find_kernel
from worker.kernels.scratch import Scratch
from worker.kernels.step_batch import StepBatch


class Launcher(Protocol):
    """The receiver of launches: it runs them immediately, or adds them to a recording (recording.py)."""

    def new(self, num_rows: int, *row_shape: int) -> torch.Tensor:
        """Return uninitialized float32 [num_rows, *row_shape] for a kernel's result."""

    def scratch(self, place: str, num_rows: int, row_size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return uninitialized memory that is used only by the next launch."""

    def attention_step(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep: ...

    def launch(self, kernel: str, call: Call, num_rows: int) -> None:
        """Compute `num_rows` rows, now or at each replay."""


class Eager:
    """A launcher that runs each launch immediately."""

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
        find_kernel(self._library, kernel)(ctypes.byref(call), num_rows)
