"""Memory for intermediate results, kept from call to call.

Fresh tensors of some megabytes cost page faults that outweigh the arithmetic done in them. Knows nothing about what is
computed. One thread at a time: whoever takes a place again overwrites what was there.
"""

from math import prod

import torch


class Scratch:
    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def take(self, place: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Uninitialized memory under this name, valid until the name is taken again."""
        size = prod(shape)
        buffer = self._buffers.get((place, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[place, dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)
