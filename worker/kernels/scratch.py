"""Memory for intermediate results, reused from call to call.

New tensors of several megabytes cost page faults that take longer than the arithmetic in them. Only one thread may use it:
taking a name again overwrites the memory.
"""

from math import prod

import torch


class Scratch:
    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._views: dict[str, torch.Tensor] = {}
        """The last view of each name, since layers take the same shapes one after the other."""

    def take(self, place: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return uninitialized memory for the name `place`, valid until it is taken again. A name has one dtype."""
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
