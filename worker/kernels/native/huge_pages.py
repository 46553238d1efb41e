"""Memory in huge pages, for weights that are read from end to end in each step.

With pages of 4 KiB a decode step waits for address translations and for the start of each page: on Zen 3 one thread
read the default model's weights at 14 GB/s, with huge pages at 19.
"""

import mmap
from contextlib import suppress

import torch

HUGE_PAGE_BYTES = 1 << 21
CHUNK_BYTES = 1 << 25
"""Mapped at once and then dealt out, because most matrices are smaller than a huge page. What is not dealt out costs nothing."""
ALIGNMENT = 64


class HugePages:
    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.int8)

    def take(self, num_bytes: int) -> torch.Tensor:
        """Memory of its own, int8, which lives as long as the tensor."""
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
    # A kernel without huge pages refuses; ordinary ones do as well.
    with suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int8)
