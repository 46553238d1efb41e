"""Memory for intermediate results, kept from call to call.

Fresh tensors of some megabytes cost page faults that outweigh the arithmetic done in them. One thread at a time:
whoever takes a place again overwrites what was there.
"""

from math import prod

import torch


class Scratch:
    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._views: dict[str, torch.Tensor] = {}
        """What was taken last: layers take the same shapes one after the other."""

    def take(self, place: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Uninitialized memory under this name, valid until the name is taken again. A name has one dtype."""
        view = self._views.get(place)
        if view is None or view.shape != shape:
            view = self._views[place] = self._buffer(place, prod(shape), dtype).view(shape)
        assert view.dtype == dtype
        return view

    def _buffer(self, place: str, size: int, dtype: torch.dtype) -> torch.Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[place] = torch.empty(size, dtype=dtype)
        return buffer[:size]
