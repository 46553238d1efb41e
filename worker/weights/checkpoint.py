"""The one interface to the tensors of a checkpoint, whatever its format, and the accounting that each is used once."""

from collections.abc import Mapping
from typing import Protocol

import torch

from pagoda.process.resources import return_freed_memory
from worker.weights.four_bit import AnyWeight

RETURN_AFTER_BYTES = 1 << 27
"""Tensors are float32 until they are packed, and what they leave adds up; looking after each would take a third of the loading."""


class WeightsError(ValueError):
    """The checkpoint cannot be read, or its tensors are not those that the model needs."""


class Checkpoint(Protocol):
    """Tensors by our names (tensor_names.py), read one at a time."""

    @property
    def names(self) -> Mapping[str, str]:
        """Our name to the checkpoint's spelling."""

    unknown: list[str]
    """What is in the checkpoint under a name that nobody knows."""

    def read(self, name: str) -> torch.Tensor:
        """float32, in torch's layout: a linear is [out, in], queries and keys rotate pairs (i, i + H/2)."""

    def read_linear(self, name: str) -> AnyWeight:
        """Likewise, or as the file has it."""

    def close(self) -> None: ...


class Weights:
    """Hands out each tensor once, on the device that computes with it.

    Whatever is missing, has another shape, or is left over in the end is an error.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._left = set(checkpoint.names)
        self._taken_bytes = 0

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self.take_optional(name, shape)
        if tensor is None:
            raise WeightsError(f"the checkpoint has no tensor {name!r} of shape {list(shape)}")
        return tensor

    def take_linear(self, name: str, shape: tuple[int, int]) -> AnyWeight:
        """On the processor where it is not float32: nobody computes with it as it is but there."""
        if name not in self._left:
            raise WeightsError(f"the checkpoint has no tensor {name!r} of shape {list(shape)}")
        weight = self._checkpoint.read_linear(name)
        self._took(name, weight, shape)
        return weight.to(self._device) if isinstance(weight, torch.Tensor) else weight

    def take_optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        if name not in self._left:
            return None
        tensor = self._checkpoint.read(name)
        self._took(name, tensor, shape)
        return tensor.to(self._device)

    def _took(self, name: str, weight: AnyWeight, shape: tuple[int, ...]) -> None:
        self._left.remove(name)
        if tuple(weight.shape) != shape:
            spelled = self._checkpoint.names[name]
            raise WeightsError(f"{spelled!r} has shape {list(weight.shape)}, the model needs {list(shape)}")
        self._count(weight.nbytes)

    def _count(self, num_bytes: int) -> None:
        self._taken_bytes += num_bytes
        if self._taken_bytes >= RETURN_AFTER_BYTES:
            self._taken_bytes = 0
            return_freed_memory()

    def drop(self, name: str) -> None:
        """A tensor that the model knows and does not need, if it is there."""
        self._left.discard(name)

    def finish(self) -> None:
        return_freed_memory()
        left = sorted(self._checkpoint.names[name] for name in self._left) + self._checkpoint.unknown
        if left:
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise WeightsError(f"the checkpoint has tensors that the model does not use: {', '.join(left[:5])}{more}")
