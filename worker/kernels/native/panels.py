"""Weights packed into panels, the order in which source/ reads them, and tables of floats beside them.

A matrix is packed from the file's own bytes, on all cores: no other memory as large as the matrix is needed. A format that has no
native form is unpacked some rows at a time.
"""

import ctypes
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from pagoda.process.resources import usable_cores
from worker.kernels.native.bindings import LinearSegment, find_byte_format, find_grouped_format
from worker.kernels.native.blocks import exact_format, stored_blocks, unpacked_format
from worker.kernels.native.packing_calls import FloatsPackCall, GroupedPackCall
from worker.kernels.native.panel_memory import PanelMemory, source_name
from worker.weights.linear_format import FloatFormat, StoredWeight, stored

FLOAT_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""The numbers of `enum float_type`."""
VALUES_PER_PASS = 1 << 20
BYTES_PER_PASS = 1 << 24
"""Bytes of a file packed at once: enough for all threads, and little beside the weights."""
ROWS_OF_ANY_PANEL = 32
"""A multiple of the outputs of a panel, for each format and processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Matrices whose formats round inputs alike, each as a segment of the outputs of a linear."""

    segments: "ctypes.Array[LinearSegment]"
    memory: Sequence[torch.Tensor]
    scratch_bytes: int
    """Scratch memory for each token."""
    input_order_I: torch.Tensor | None
    """The order in which the kernel gathers the inputs, int64; None if they are in order."""

    @property
    def num_bytes(self) -> int:
        return sum(memory.nbytes for memory in self.memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A packed matrix."""

    format: int
    """Address of the format's structure."""
    memory: torch.Tensor
    shape: tuple[int, int]
    first_out: int
    input_order_I: torch.Tensor | None


class PanelPacker:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._byte_format = find_byte_format(library)
        self.memory = PanelMemory()

    def pack(self, weights: Sequence[StoredWeight]) -> list[Panels]:
        """Pack the matrices of a linear."""
        packed, first_out = list[Packed](), 0
        for weight in weights:
            packed.append(self._pack(weight, first_out))
            first_out += weight.shape[0]
        alike = list[list[Packed]]()
        for each in packed:
            some = next((some for some in alike if self._round_alike(some[0], each)), None)
            if some is None:
                alike.append([each])
            else:
                some.append(each)
        return [self._join(some) for some in alike]

    def _round_alike(self, first: Packed, second: Packed) -> bool:
        """Return True if both matrices read the same rounded inputs."""
        if (first.format == self._byte_format) != (second.format == self._byte_format):
            return False
        order_I, other_I = first.input_order_I, second.input_order_I
        if order_I is None or other_I is None:
            return order_I is other_I
        return torch.equal(order_I, other_I)

    def keep_floats(self, weight: StoredWeight) -> torch.Tensor:
        """Return a table of floats, in the file's type if the kernels can read it, else in float32."""
        floats = _floats(weight)
        dtype = torch.float32 if floats is None else floats.dtype
        (num_rows, size), num_bytes = weight.shape, weight.shape[0] * weight.shape[1] * dtype.itemsize
        memory, is_known = self.memory.take(num_bytes, f"table {source_name(weight)}")
        table = memory.view(dtype).view(num_rows, size)
        if not is_known:
            for first, end in _passes(weight.shape):
                rows = weight.dequantize(first, end) if floats is None else floats[weight.file_rows(first, end)]
                table[first:end] = rows
        return table

    def _join(self, packed: Sequence[Packed]) -> Panels:
        segments = (LinearSegment * len(packed))()
        for segment, each in zip(segments, packed, strict=True):
            segment.format, segment.panels = each.format, each.memory.data_ptr()
            segment.first_out, segment.num_out = each.first_out, each.shape[0]
        scratch_bytes = self._library.scratch_bytes(packed[0].format, packed[0].shape[1])
        return Panels(
            segments=segments,
            memory=[each.memory for each in packed],
            scratch_bytes=scratch_bytes,
            input_order_I=packed[0].input_order_I,
        )

    def _pack(self, weight: StoredWeight, first_out: int) -> Packed:
        num_out, num_in = weight.shape
        name = self._format_name(weight)
        found = self._byte_format if name is None else find_grouped_format(self._library, name)
        assert found is not None
        memory, is_known = self.memory.take(self._library.panels_bytes(found, num_out, num_in), source_name(weight))
        if not is_known:
            self._library.set_threads(usable_cores())
            if name == weight.format.name or (name is None and _floats(weight) is not None):
                self._pack_passes(found, weight, memory.data_ptr())
            else:
                self._pack_unpacked(found, name, weight, memory)
        order_I = None if name is None else weight.input_order_I
        return Packed(format=found, memory=memory, shape=weight.shape, first_out=first_out, input_order_I=order_I)

    def _format_name(self, weight: StoredWeight) -> str | None:
        """Return the name of a grouped format; None for bytes, which floats become."""
        if find_grouped_format(self._library, weight.format.name) is not None:
            return weight.format.name
        if isinstance(weight.unpack(0, 1), torch.Tensor):
            return None
        return exact_format(weight) or unpacked_format(
            weight.unpack(first, end) for first, end in _passes(weight.shape)
        )

    def _pack_passes(self, found: int, weight: StoredWeight, place: int) -> None:
        """Pack a weight in passes, after each of which the file's rows are forgotten, so that not all are in memory at once."""
        if weight.row_order_O is not None or weight.nbytes <= BYTES_PER_PASS:
            self._pack_rows(found, weight, place)
            return
        size = max(1, BYTES_PER_PASS * weight.shape[0] // weight.nbytes // ROWS_OF_ANY_PANEL) * ROWS_OF_ANY_PANEL
        for first in range(0, weight.shape[0], size):
            end = min(first + size, weight.shape[0])
            offset = self._library.panels_bytes(found, first, weight.shape[1])
            self._pack_rows(found, weight.rows(first, end), place + offset)
            weight.forget(first, end)

    def _pack_unpacked(self, found: int, name: str | None, weight: StoredWeight, memory: torch.Tensor) -> None:
        """Pack a weight without a native form, some rows at a time, on all cores."""

        def pack(some: tuple[int, int]) -> None:
            first, end = some
            place = memory.data_ptr() + self._library.panels_bytes(found, first, weight.shape[1])
            rows = stored(weight.dequantize(first, end)) if name is None else stored_blocks(weight, first, end, name)
            self._pack_rows(found, rows, place)

        with ThreadPoolExecutor(usable_cores()) as threads:
            list(threads.map(pack, _passes(weight.shape)))

    def _pack_rows(self, found: int, weight: StoredWeight, place: int) -> None:
        num_out, num_in = weight.shape
        order = None if weight.row_order_O is None else _address(weight.row_order_O)
        if found == self._byte_format:
            floats = _floats(weight)
            assert floats is not None
            floats_call = FloatsPackCall(
                floats=_address(floats),
                row_order=order,
                panels=place,
                type=FLOAT_TYPES[floats.dtype],
                num_in=num_in,
                num_out=num_out,
            )
            self._library.pack_floats(ctypes.byref(floats_call))
            return
        call = GroupedPackCall(
            format=found,
            file=_address(weight.parts["blocks"]),
            row_order=order,
            panels=place,
            num_in=num_in,
            num_out=num_out,
        )
        self._library.pack_grouped(ctypes.byref(call))


def _passes(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of passes over a matrix. A panel is in one pass."""
    size = max(1, VALUES_PER_PASS // shape[1] // ROWS_OF_ANY_PANEL) * ROWS_OF_ANY_PANEL
    for first in range(0, shape[0], size):
        yield first, min(first + size, shape[0])


def _floats(weight: StoredWeight) -> torch.Tensor | None:
    """Return the file's floats, in the order of its rows, if the kernels can read them."""
    if not isinstance(weight.format, FloatFormat) or weight.format.dtype not in FLOAT_TYPES:
        return None
    return weight.parts["floats"].contiguous()


def _address(x: torch.Tensor) -> int:
    assert x.is_contiguous()
    return x.data_ptr()
