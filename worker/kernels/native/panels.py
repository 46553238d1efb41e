"""Weights packed into panels, the order in which source/linear.c and linear_four_bit.c read them, and the kernel for each.

Panels are stored in huge pages, because each step reads all weights. With pages of 4 KiB a decode step waits for address
translation and at the start of each page: on Zen 3 one thread read the default model's weights at 14 GB/s, with huge pages at
19 GB/s.
"""

import ctypes
import mmap
from contextlib import suppress
from dataclasses import dataclass

import torch

from worker.weights.four_bit import AnyWeight, FourBitWeight

HUGE_PAGE_BYTES = 1 << 21
CHUNK_BYTES = 1 << 25
"""Size of a mapping from which small matrices are allocated, since most are smaller than a huge page. Memory of a mapping that
is never used costs nothing."""
ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    memory: torch.Tensor
    kernel: str
    scratch_bytes: int
    """Scratch memory that the kernel needs for each token."""


class PanelPacker:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._memory = HugePages()

    def pack(self, weight: AnyWeight) -> Panels:
        """Pack a weight. This allocates no other memory as large as the weight."""
        return self._pack_four_bit(weight) if isinstance(weight, FourBitWeight) else self._pack_bytes(weight)

    def _pack_bytes(self, weight_OI: torch.Tensor) -> Panels:
        num_out, num_in = weight_OI.shape
        memory = self._memory.take(self._library.panels_bytes(num_out, num_in))
        self._library.pack_panels(_address(weight_OI), memory.data_ptr(), num_out, num_in)
        return Panels(memory=memory, kernel="linear", scratch_bytes=self._library.linear_scratch_bytes(num_in))

    def _pack_four_bit(self, weight: FourBitWeight) -> Panels:
        """Pack a four-bit weight, with scales and minima in 16 bits if that is exact.

        It is exact if the file has them in 16 bits; a step then reads a sixth less.
        """
        (num_out, num_in), kernel = weight.shape, "linear_four_bit"
        scale_OG, minimum_OG = weight.scale_OG, weight.minimum_OG
        if _fits_half(scale_OG) and _fits_half(minimum_OG):
            scale_OG, minimum_OG, kernel = scale_OG.half(), minimum_OG.half(), "linear_four_bit_half"
        factor_bytes = scale_OG.element_size()
        memory = self._memory.take(self._library.four_bit_panels_bytes(num_out, num_in, factor_bytes))
        parts = _address(weight.integers_OI), _address(scale_OG), _address(minimum_OG), memory.data_ptr()
        self._library.pack_four_bit_panels(*parts, num_out, num_in, factor_bytes)
        return Panels(memory=memory, kernel=kernel, scratch_bytes=self._library.four_bit_scratch_bytes(num_in))


def _fits_half(x: torch.Tensor) -> bool:
    """Return True if float16 represents all elements exactly."""
    halves = x.half()
    return bool(halves.isfinite().all()) and torch.equal(halves.float(), x)


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
