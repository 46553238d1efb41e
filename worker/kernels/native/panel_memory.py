"""The memory of panels: huge pages, new or filled with what an earlier start has packed.

Each step reads all weights. With pages of 4 KiB a decode step waits for address translation and at the start of each page: on Zen 3
one thread read the default model's weights at 14 GB/s, with huge pages at 19 GB/s.
"""

import hashlib
import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from worker.weights.linear_format import StoredWeight

HUGE_PAGE_BYTES = 1 << 21
CHUNK_BYTES = 1 << 25
"""Size of a mapping from which small matrices are allocated, since most are smaller than a huge page. Memory of a mapping that
is never used costs nothing."""
ALIGNMENT = 64
SAMPLED = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedPart:
    """A packed matrix, and a name for what was packed."""

    source: str
    memory: torch.Tensor


class PanelMemory:
    """The memory of a model's panels, given out in the order in which its matrices are packed."""

    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.int8)
        self._known: list[PackedPart] = []
        self._is_noted = False
        self.parts: list[PackedPart] = []
        """What was given out since `begin`."""
        self.num_packed = 0
        """How many of the parts had to be packed."""

    def begin(self, known: Sequence[PackedPart] = ()) -> None:
        """Begin another model. `known` are its parts as an earlier start has packed them."""
        self._known, self.parts, self.num_packed = list(reversed(known)), [], 0
        self._is_noted = True

    def end(self) -> None:
        """Forget the model's parts."""
        self._known, self.parts, self._is_noted = [], [], False

    def take(self, num_bytes: int, source: str) -> tuple[torch.Tensor, bool]:
        """Return int8 memory that lives as long as the tensor, and whether it already has the panels of this source.

        If it does not, it is zero.
        """
        memory = self._take_known(num_bytes, source)
        is_known = memory is not None
        if memory is None:
            memory = self._new(num_bytes)
            self.num_packed += 1
        if self._is_noted:
            self.parts.append(PackedPart(source=source, memory=memory))
        return memory, is_known

    def _take_known(self, num_bytes: int, source: str) -> torch.Tensor | None:
        if not self._known:
            return None
        part = self._known.pop()
        if part.source == source and part.memory.nbytes == num_bytes:
            return part.memory
        self._known = []  # The order is another one, so nothing else can be trusted.
        return None

    def _new(self, num_bytes: int) -> torch.Tensor:
        if num_bytes > CHUNK_BYTES // 2:
            return map_huge_pages(num_bytes)[:num_bytes]
        padded = -(-num_bytes // ALIGNMENT) * ALIGNMENT
        if padded > len(self._rest):
            self._rest = map_huge_pages(CHUNK_BYTES)
        taken, self._rest = self._rest[:num_bytes], self._rest[padded:]
        return taken


def map_huge_pages(num_bytes: int) -> torch.Tensor:
    """Return at least `num_bytes` zeros, int8, in huge pages where the operating system has them."""
    whole_pages = -(-max(num_bytes, 1) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    memory = mmap.mmap(-1, whole_pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Without huge pages in the operating system the call fails, and ordinary pages are used.
    with suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int8)


def source_name(weight: StoredWeight) -> str:
    """Return a name that differs for weights that are packed differently: of the format, the shape, and a sample of the bytes."""
    hashed = hashlib.sha256(f"{weight.format!r} {weight.shape}".encode())
    for name, part in sorted(weight.parts.items()):
        hashed.update(f"{name} {part.shape} {part.dtype}".encode())
        sample = torch.cat((part.flatten()[:SAMPLED], part.flatten()[-SAMPLED:]))
        hashed.update(sample.view(torch.uint8).numpy().tobytes())
    for order in (weight.row_order_O, weight.input_order_I):
        hashed.update(b"in order" if order is None else order.numpy().tobytes())
    return f"{weight.format.name} {hashed.hexdigest()[:16]}"
