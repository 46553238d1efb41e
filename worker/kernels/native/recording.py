"""Recording of a step's launches, so that one native call can replay them for every later step, as a CUDA graph does.

The model's forward runs once with a few tokens and a launcher that only records. A launch's structure holds addresses. Those of
intermediate results are recognised by the memory that the recorder allocated, and rewritten to point into an arena that is
large enough for later steps. The rules that make this possible are in ../interface.py.

Legend as in step_batch.py.
"""

import ctypes
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from worker.kernels.native.attention_step import AttentionShape, AttentionSteps
from worker.kernels.native.bindings import POINTER, AttentionStep, Call
from worker.kernels.step_batch import StepBatch


class Rows(IntEnum):
    """The kind of rows that a result has: one per token, or one per sampled row. The values are those of `struct launch`."""

    TOKENS = 0
    SAMPLES = 1


RECORDED_TOKENS, RECORDED_SAMPLES = 3, 2
"""Numbers of rows of the recorded step. They differ, so that a number of rows identifies its kind; both exceed one, so that a
row has its real stride."""
MEANING = {RECORDED_TOKENS: Rows.TOKENS, RECORDED_SAMPLES: Rows.SAMPLES}


class RecordingError(Exception):
    """The forward cannot be replayed; the message names the launch and the rule of ../interface.py that it breaks."""


class LaunchesOnly(TorchFunctionMode):
    """A context in which torch may create and view tensors; it may not compute or copy, since a replay would not repeat that.

    A dispatch mode would do the same, but would import a thousand modules at its first use.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        if function is not torch.empty and not _is_view(function.__name__, result, arguments, options or {}):
            raise RecordingError(
                f"torch computes {function.__name__!r} between launches, which a replay would not repeat (rule 5)"
            )
        return result


def _is_view(name: str, result: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Return True if nothing was written; `reshape` and `contiguous` copy if a view is not possible."""
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or "out" in options:
        return False
    tensors = [each for each in (result if isinstance(result, (list, tuple)) else [result]) if torch.is_tensor(each)]
    memory = arguments[0].untyped_storage().data_ptr() if tensors and torch.is_tensor(arguments[0]) else None
    return all(each.untyped_storage().data_ptr() == memory for each in tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLaunch:
    kernel: str
    call: Call
    rows: Rows


@dataclass(slots=True, eq=False, kw_only=True)
class Buffer:
    """The memory of one intermediate result, input or output, or scratch memory."""

    tensor: torch.Tensor
    array: NDArray[Any]
    """The same memory as an array."""
    rows: Rows
    first: int = sys.maxsize
    last: int = -1
    uses: list[tuple[Call, str, int]] = field(default_factory=list)
    """Structures and fields that hold an address in the buffer, with its offset from the start in bytes."""

    @property
    def bytes_per_row(self) -> int:
        return self.tensor.nbytes // len(self.tensor)

    @property
    def is_used(self) -> bool:
        return self.first <= self.last

    def touch(self, launch: int) -> None:
        self.first, self.last = min(self.first, launch), max(self.last, launch)


class Recorder:
    """A launcher that records launches."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.launches: list[RecordedLaunch] = []
        self.buffers: list[Buffer] = []
        self.attention = AttentionSteps(library)

    def new(self, num_rows: int, *row_shape: int) -> torch.Tensor:
        return self.buffer(num_rows, *row_shape, dtype=torch.float32)

    def scratch(self, place: str, num_rows: int, row_size: int, dtype: torch.dtype) -> torch.Tensor:
        return self.buffer(num_rows, row_size, dtype=dtype)

    def buffer(self, num_rows: int, *row_shape: int, dtype: torch.dtype) -> torch.Tensor:
        rows = _meaning(num_rows, "a result or scratch memory")
        tensor = torch.empty(num_rows, *row_shape, dtype=dtype)
        self.buffers.append(Buffer(tensor=tensor, array=tensor.numpy(), rows=rows))
        return tensor

    def attention_step(self, batch: StepBatch, shape: AttentionShape) -> AttentionStep:
        return self.attention.of(batch, shape)

    def launch(self, kernel: str, call: Call, num_rows: int) -> None:
        self.launches.append(
            RecordedLaunch(kernel=kernel, call=call, rows=_meaning(num_rows, f"a launch of {kernel!r}"))
        )

    def batch(self) -> StepBatch:
        """Return the batch of the recorded step. Its tensors are ordinary buffers, filled in before each replay."""
        return StepBatch(
            token_ids_T=self.buffer(RECORDED_TOKENS, dtype=torch.int64),
            positions_T=self.buffer(RECORDED_TOKENS, dtype=torch.int64),
            slots_T=self.buffer(RECORDED_TOKENS, dtype=torch.int64),
            query_starts=(0, RECORDED_TOKENS),
            context_lens=(RECORDED_TOKENS,),
            block_tables_SB=torch.zeros(1, 1, dtype=torch.int64),
            sample_rows_R=self.buffer(RECORDED_SAMPLES, dtype=torch.int64),
        )

    def find_uses(self) -> None:
        """Find the launches that use each buffer, by the addresses in their structures.

        Addresses outside all buffers are those of weights or KV memory.
        """
        buffers = sorted((buffer for buffer in self.buffers if buffer.tensor.nbytes), key=_start)
        starts = [_start(buffer) for buffer in buffers]
        for index, launch in enumerate(self.launches):
            for name, kind, value in _integers(launch.call):
                buffer = buffers[bisect_right(starts, value) - 1]
                offset = value - _start(buffer)
                if 0 <= offset < buffer.tensor.nbytes:
                    if kind is not POINTER:
                        raise RecordingError(
                            f"{launch.kernel!r}: field {name!r} holds an address and is not declared as POINTER (rule 4)"
                        )
                    if offset >= buffer.bytes_per_row:
                        raise RecordingError(
                            f"{launch.kernel!r}: field {name!r} begins {offset} bytes after the first row's start, "
                            f"after the end of that row of {buffer.bytes_per_row} bytes (rule 3)"
                        )
                    buffer.touch(index)
                    buffer.uses.append((launch.call, name, offset))

    def logits_buffer(self, logits_RV: torch.Tensor) -> Buffer:
        """Return the buffer of the logits that the forward returned."""
        buffer = self.buffer_of(logits_RV)
        if buffer.rows is not Rows.SAMPLES:
            raise RecordingError("the forward's logits do not have one row for each sampled row (rule 2)")
        return buffer

    def buffer_of(self, tensor: torch.Tensor) -> Buffer:
        for buffer in self.buffers:
            if _start(buffer) == tensor.data_ptr():
                return buffer
        raise RecordingError("the forward's logits are not the result of a launch (rule 5)")


def _start(buffer: Buffer) -> int:
    return buffer.tensor.data_ptr()


def _meaning(num_rows: int, what: str) -> Rows:
    if num_rows not in MEANING:
        raise RecordingError(
            f"{what} with {num_rows} rows cannot be replayed: it must have one row for each of the step's tokens "
            f"({RECORDED_TOKENS} while recording) or each of its sampled rows ({RECORDED_SAMPLES}) (rule 2)"
        )
    return MEANING[num_rows]


def _integers(call: Call) -> list[tuple[str, type, int]]:
    """Return name, type and value of the fields that may hold an address."""
    fields: list[tuple[str, type]] = list(call._fields_)
    values = [(name, kind, getattr(call, name)) for name, kind in fields]
    return [(name, kind, value) for name, kind, value in values if isinstance(value, int)]
