"""A model's forward as a recording, made at the first step and then replayed in one native call per step.

The recording owns the memory of intermediate results, which is large enough for the recent steps. Memory that no step has
touched costs nothing, and results that are never needed at the same time share memory.

Legend as in step_batch.py.
"""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from worker.kernels.interface import Forward, LayerKV
from worker.kernels.native.bindings import Launch, find_kernel
from worker.kernels.native.recording import Buffer, LaunchesOnly, Recorder, Rows
from worker.kernels.step_batch import StepBatch

MIN_CAPACITY = 64
"""Minimum capacity, in rows. With a multiple of it, each result begins at a cache line."""


class RecordedForward:
    def __init__(self, library: ctypes.CDLL, recorder: Recorder, forward: Forward, kv: Sequence[LayerKV]) -> None:
        """Record `forward`, which must launch through `recorder`."""
        self.kv = kv
        self._library = library
        self._attention = recorder.attention
        batch = recorder.batch()
        with LaunchesOnly():
            logits_RV = forward(batch, kv)
        recorder.find_uses()
        inputs = [recorder.buffer_of(t) for t in (batch.token_ids_T, batch.positions_T, batch.slots_T)]
        samples, logits = recorder.buffer_of(batch.sample_rows_R), recorder.logits_buffer(logits_RV)
        for buffer in (*inputs, samples):
            buffer.touch(-1)
        logits.touch(len(recorder.launches))
        self._arenas = [Arena(buffer for buffer in recorder.buffers if buffer.rows is rows) for rows in Rows]
        self._inputs, self._samples, self._logits = inputs, samples, logits
        self._recorded = recorder.launches
        self._launches = _launches(library, recorder)

    def run(self, batch: StepBatch) -> torch.Tensor:
        """Replay the step and return float32 logits [R, V], valid until the next step.

        No torch operation runs before the replay, since each one may release Python's lock and wait for it. The replay itself
        takes long and releases the lock.
        """
        num_rows = len(batch.token_ids_T), len(batch.sample_rows_R)
        for arena, needed in zip(self._arenas, num_rows, strict=True):
            arena.make_room(needed)
        tokens, samples = self._arenas
        values = batch.token_ids_T, batch.positions_T, batch.slots_T
        for buffer, value_T in zip(self._inputs, values, strict=True):
            tokens.view(buffer, num_rows[0])[:] = value_T.tolist()
        samples.view(self._samples, num_rows[1])[:] = batch.sample_rows_R.tolist()
        self._attention.describe(batch)
        self._library.set_threads(torch.get_num_threads())
        counts = (ctypes.c_int64 * len(Rows))(*num_rows)
        self._library.replay(self._launches, len(self._launches), counts)
        return torch.from_numpy(samples.view(self._logits, num_rows[1]))


class Arena:
    """Memory for all buffers with the same kind of rows."""

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self._buffers = [buffer for buffer in buffers if buffer.is_used]
        lifetimes = [Lifetime(first=b.first, last=b.last, size=b.bytes_per_row) for b in self._buffers]
        offsets, self._bytes_per_row = plan_memory(lifetimes)
        self._offsets = dict(zip(map(id, self._buffers), offsets, strict=True))
        self._capacity = 0
        self._memory = torch.empty(0, dtype=torch.uint8).numpy()

    def make_room(self, num_rows: int) -> None:
        """Make room for `num_rows` rows, in powers of two. Memory more than 8 times too large is released."""
        wanted = max(MIN_CAPACITY, 1 << (num_rows - 1).bit_length())
        if not wanted <= self._capacity <= 8 * wanted:
            self._capacity = wanted
            self._memory = torch.empty(wanted * self._bytes_per_row, dtype=torch.uint8).numpy()
            for buffer in self._buffers:
                for call, field, offset in buffer.uses:
                    setattr(call, field, self._memory.ctypes.data + self._offset(buffer) + offset)

    def view(self, buffer: Buffer, num_rows: int) -> NDArray[Any]:
        first, recorded = self._offset(buffer), buffer.array
        rows = self._memory[first : first + num_rows * buffer.bytes_per_row]
        return rows.view(recorded.dtype).reshape(num_rows, *recorded.shape[1:])

    def _offset(self, buffer: Buffer) -> int:
        return self._offsets[id(buffer)] * self._capacity


def _launches(library: ctypes.CDLL, recorder: Recorder) -> "ctypes.Array[Launch]":
    launches = (Launch * len(recorder.launches))()
    for launch, recorded in zip(launches, recorder.launches, strict=True):
        launch.kernel = ctypes.cast(find_kernel(library, recorded.kernel), ctypes.c_void_p).value
        launch.call = ctypes.addressof(recorded.call)
        launch.rows = recorded.rows
    return launches


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """The launches during which a buffer is needed, from `first` to `last`, both included, and its bytes per row."""

    first: int
    last: int
    size: int


def plan_memory(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Return an offset for each lifetime, and the total size. Assigns offsets by first fit, in order of first use."""
    offsets = [0] * len(lifetimes)
    alive: list[int] = []
    total = 0
    for index in sorted(range(len(lifetimes)), key=lambda index: lifetimes[index].first):
        wanted = lifetimes[index]
        alive = [other for other in alive if lifetimes[other].last >= wanted.first]
        place = 0
        for other in sorted(alive, key=offsets.__getitem__):
            if place + wanted.size <= offsets[other]:
                break
            place = max(place, offsets[other] + lifetimes[other].size)
        offsets[index] = place
        alive.append(index)
        total = max(total, place + wanted.size)
    return offsets, total
