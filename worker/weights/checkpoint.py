"""The interface to the tensors of a checkpoint of any format, and a check that each tensor is used exactly once."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from pagoda.process.resources import return_freed_memory
from worker.weights.linear_format import StoredWeight

RETURN_AFTER_BYTES = 1 << 27
"""Freed memory is returned each time tensors of this size were read. Tensors are float32 until they are packed, so the memory
that they free adds up; returning it after each tensor would take a third of the loading time."""


OnProgress = Callable[[int, int], object]
"""A callback for the bytes of the file's tensors that were converted, and for all of them."""


class WeightsError(ValueError):
    """The checkpoint cannot be read, or its tensors are not those that the model needs."""


class Checkpoint(Protocol):
    """Tensors by Pagoda's names (tensor_names.py), read one at a time."""

    @property
    def names(self) -> Mapping[str, str]:
        """Mapping from Pagoda's name of each tensor to the checkpoint's."""

    unknown: list[str]
    """Tensors of the checkpoint whose names are not known."""

    def read(self, name: str) -> torch.Tensor:
        """Return float32 in torch's layout: a linear is [out, in]; queries and keys rotate pairs (i, i + H/2)."""

    def read_matrix(self, name: str) -> StoredWeight:
        """Return a matrix as the file stores it. It may be a view of the mapped file, so drop it before `close`."""

    def read_stack(self, name: str) -> tuple[StoredWeight, int]:
        """Return the matrices of a tensor [N, out, in], one below the other, as `read_matrix` does, and their number."""

    def num_bytes(self, name: str) -> int:
        """Return the size of the tensor in its file."""

    def forget(self, name: str) -> None:
        """Release the memory that holds the file's bytes of this tensor, which was read."""

    def close(self) -> None: ...


class Weights:
    """The tensors of a checkpoint, each returned once, on the device that computes with it.

    A tensor that is missing, has another shape or is never used is an error.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, on_progress: OnProgress | None = None) -> None:
        self._checkpoint = checkpoint
        self._on_progress = on_progress
        self._total_bytes = sum(map(checkpoint.num_bytes, checkpoint.names))
        self._completed_bytes = 0
        self._device = device
        self._left = set(checkpoint.names)
        self._taken_bytes = 0

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self.take_optional(name, shape)
        if tensor is None:
            raise WeightsError(f"the checkpoint has no tensor {name!r} of shape {list(shape)}")
        return tensor

    def take_matrix(self, name: str, shape: tuple[int, int]) -> StoredWeight:
        """Return a matrix as the file stores it, in the processor's memory. Call `release` after it was packed."""
        if name not in self._left:
            raise WeightsError(f"the checkpoint has no tensor {name!r} of shape {list(shape)}")
        weight = self._checkpoint.read_matrix(name)
        self._took(name, weight, shape)
        return weight

    def take_stack(self, name: str, shape: tuple[int, int, int]) -> StoredWeight:
        """Return matrices of one shape, one below the other, as `take_matrix` does."""
        if name not in self._left:
            raise WeightsError(f"the checkpoint has no tensor {name!r} of shape {list(shape)}")
        weight, number = self._checkpoint.read_stack(name)
        self._took(name, weight, shape, (number, weight.shape[0] // number, weight.shape[1]))
        return weight

    def take_row(self, name: str, size: int) -> torch.Tensor:
        """Return a matrix of one row, which the checkpoint may have as a vector."""
        tensor = self._checkpoint.read(name) if name in self._left else None
        return self.take(name, (size,) if tensor is not None and tensor.dim() == 1 else (1, size)).view(1, size)

    def has(self, name: str) -> bool:
        """Return True if the checkpoint has the tensor, and it was not taken yet."""
        return name in self._left

    def release(self, name: str) -> None:
        """Release the memory of a matrix that was packed."""
        self._checkpoint.forget(name)
        self._report(name)

    def take_optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        if name not in self._left:
            return None
        tensor = self._checkpoint.read(name)
        self._took(name, tensor, shape)
        self._report(name)
        return tensor.to(self._device)

    def _took(
        self,
        name: str,
        weight: torch.Tensor | StoredWeight,
        shape: tuple[int, ...],
        found: tuple[int, ...] | None = None,
    ) -> None:
        self._left.remove(name)
        found = tuple(weight.shape) if found is None else found
        if found != shape:
            spelled = self._checkpoint.names[name]
            raise WeightsError(f"{spelled!r} has shape {list(found)}, but the model needs {list(shape)}")
        self._count(weight.nbytes)

    def _count(self, num_bytes: int) -> None:
        self._taken_bytes += num_bytes
        if self._taken_bytes >= RETURN_AFTER_BYTES:
            self._taken_bytes = 0
            return_freed_memory()

    def _report(self, name: str) -> None:
        self._completed_bytes += self._checkpoint.num_bytes(name)
        if self._on_progress is not None:
            self._on_progress(self._completed_bytes, self._total_bytes)

    def drop(self, name: str) -> None:
        """Accept a tensor that the model does not need, if the checkpoint has it."""
        if name in self._left:
            self._left.remove(name)
            self._report(name)

    def finish(self) -> None:
        """Raise WeightsError if a tensor was not used."""
        return_freed_memory()
        left = sorted(self._checkpoint.names[name] for name in self._left) + self._checkpoint.unknown
        if left:
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise WeightsError(f"the checkpoint has tensors that the model does not use: {', '.join(left[:5])}{more}")
