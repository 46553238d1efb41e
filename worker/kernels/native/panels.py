"""Weights packed into panels, the order in which source/ reads them.

Panels are stored in huge pages, because each step reads all weights. With pages of 4 KiB a decode step waits for address
translation and at the start of each page: on Zen 3 one thread read the default model's weights at 14 GB/s, with huge pages at
19 GB/s.
"""

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from worker.kernels.native.bindings import GroupedPackCall, LinearSegment, find_byte_format, find_grouped_format
from worker.weights.grouped import BLOCK, GroupedWeight
from worker.weights.linear_format import StoredWeight

HUGE_PAGE_BYTES = 1 << 21
CHUNK_BYTES = 1 << 25
"""Size of a mapping from which small matrices are allocated, since most are smaller than a huge page. Memory of a mapping that
is never used costs nothing."""
ALIGNMENT = 64
MOST_IN_FOUR_BITS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Matrices whose formats round inputs alike, each as a segment of the outputs of a linear."""

    segments: "ctypes.Array[LinearSegment]"
    memory: Sequence[torch.Tensor]
    scratch_bytes: int
    """Scratch memory for each token."""

    @property
    def num_bytes(self) -> int:
        return sum(memory.nbytes for memory in self.memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A matrix in blocks of one of the formats of source/grouped.h, or as float32 [O, I]."""

    format: int
    """Address of the format's structure."""
    data: torch.Tensor
    shape: tuple[int, int]
    row_order_O: torch.Tensor | None = None
    first_out: int


class PanelPacker:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._byte_format = find_byte_format(library)
        self._memory = HugePages()

    def pack(self, weights: Sequence[StoredWeight]) -> list[Panels]:
        """Pack the matrices of a linear."""
        sources, first_out = list[Source](), 0
        for weight in weights:
            sources.append(self._source(weight, first_out))
            first_out += weight.shape[0]
        is_float = [source.format == self._byte_format for source in sources]
        alike = (
            [source for source, floats in zip(sources, is_float, strict=True) if floats is kind]
            for kind in (True, False)
        )
        return [self._pack_alike(some) for some in alike if some]

    def _source(self, weight: StoredWeight, first_out: int) -> Source:
        known = find_grouped_format(self._library, weight.format.name)
        if known is not None:
            return Source(
                format=known,
                data=weight.parts["blocks"],
                shape=weight.shape,
                row_order_O=weight.row_order_O,
                first_out=first_out,
            )
        unpacked = weight.unpack() if weight.input_order_I is None else weight.dequantize()
        if isinstance(unpacked, torch.Tensor):
            return Source(format=self._byte_format, data=unpacked.float(), shape=weight.shape, first_out=first_out)
        name, blocks = as_blocks(unpacked)
        unpacked_format = find_grouped_format(self._library, name)
        assert unpacked_format is not None
        return Source(format=unpacked_format, data=blocks, shape=weight.shape, first_out=first_out)

    def _pack_alike(self, sources: Sequence[Source]) -> Panels:
        """Pack matrices from the file's own bytes. This allocates no other memory as large as they are."""
        segments, memory = (LinearSegment * len(sources))(), list[torch.Tensor]()
        self._library.set_threads(torch.get_num_threads())
        for segment, source in zip(segments, sources, strict=True):
            num_out, num_in = source.shape
            panels = self._memory.take(self._library.panels_bytes(source.format, num_out, num_in))
            if source.format == self._byte_format:
                self._library.pack_panels(_address(source.data), panels.data_ptr(), num_out, num_in)
            else:
                self._pack_grouped(source, panels)
            memory.append(panels)
            segment.format, segment.panels = source.format, panels.data_ptr()
            segment.first_out, segment.num_out = source.first_out, num_out
        scratch_bytes = self._library.scratch_bytes(sources[0].format, sources[0].shape[1])
        return Panels(segments=segments, memory=memory, scratch_bytes=scratch_bytes)

    def _pack_grouped(self, source: Source, panels: torch.Tensor) -> None:
        call = GroupedPackCall(
            format=source.format,
            file=_address(source.data),
            row_order=None if source.row_order_O is None else _address(source.row_order_O),
            panels=panels.data_ptr(),
            num_in=source.shape[1],
            num_out=source.shape[0],
        )
        self._library.pack_grouped(ctypes.byref(call))


def as_blocks(weight: GroupedWeight) -> tuple[str, torch.Tensor]:
    """Return the name of a native format, and blocks in it, uint8 [O, G, bytes of a scale, a minimum and integers]."""
    assert weight.group_size == BLOCK, f"groups of {weight.group_size} inputs have no native form"
    is_small = weight.integers_OI.amin() >= 0 and weight.integers_OI.amax() <= MOST_IN_FOUR_BITS
    minimum_OG = torch.zeros_like(weight.scale_OG) if weight.minimum_OG is None else weight.minimum_OG
    factors_OGF = torch.stack((weight.scale_OG, minimum_OG), dim=-1).view(torch.uint8)
    integers_OGB = weight.integers_OI.view(torch.uint8).view(*weight.scale_OG.shape, BLOCK)
    return "UNPACKED_4" if is_small else "UNPACKED_8", torch.cat((factors_OGF, integers_OGB), dim=-1)


def _address(x: torch.Tensor) -> int:
    assert x.is_contiguous()
    return x.data_ptr()


class HugePages:
    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.int8)

    def take(self, num_bytes: int) -> torch.Tensor:
        """Return int8 memory that is not shared and lives as long as the tensor."""
        if num_bytes > CHUNK_BYTES // 2:
            return _map(num_bytes)[:num_bytes]
        padded = -(-num_bytes // ALIGNMENT) * ALIGNMENT
        if padded > len(self._rest):
            self._rest = _map(CHUNK_BYTES)
        taken, self._rest = self._rest[:num_bytes], self._rest[padded:]
        return taken


def _map(num_bytes: int) -> torch.Tensor:
    whole_pages = -(-max(num_bytes, 1) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    memory = mmap.mmap(-1, whole_pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Without huge pages in the operating system the call fails, and ordinary pages are used.
    with suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int8)
