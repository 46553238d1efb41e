"""Which kernels a worker computes with: chosen once, at start, by the numeric mode and the device."""

from collections.abc import Callable

from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Kernels
from worker.kernels.reference import ReferenceKernels

DEFAULT_NUMERICS = "integer"

IMPLEMENTATIONS: dict[tuple[str, str], Callable[[], Kernels]] = {
    ("integer", "cpu"): IntegerKernels,
    ("float32", "cpu"): ReferenceKernels,
}
"""By (numerics, device)."""


class UnknownKernelsError(ValueError):
    """No implementation of this numeric mode on this device; the message names those there are."""


def select_kernels(numerics: str, device: str) -> Kernels:
    implementation = IMPLEMENTATIONS.get((numerics, device))
    if implementation is None:
        known = ", ".join(f"{mode} on {place}" for mode, place in IMPLEMENTATIONS)
        raise UnknownKernelsError(f"no kernels compute {numerics!r} on {device!r}; known: {known}")
    return implementation()
