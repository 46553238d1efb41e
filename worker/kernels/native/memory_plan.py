"""Which of a recording's intermediate results may lie in the same memory: those that are never needed at the same time."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """From the first launch that touches it to the last, both included."""

    first: int
    last: int
    size: int


def plan_memory(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An offset for each, and the size of the whole. First fit, in the order in which they come to life."""
    offsets = [0] * len(lifetimes)
    alive: list[int] = []
    total = 0
    for index in sorted(range(len(lifetimes)), key=lambda index: lifetimes[index].first):
        wanted = lifetimes[index]
        alive = [other for other in alive if lifetimes[other].last >= wanted.first]
        place = 0
        for other in sorted(alive, key=offsets.__getitem__):
            if place + wanted.size <= offsets[other]:
                break
            place = max(place, offsets[other] + lifetimes[other].size)
        offsets[index] = place
        alive.append(index)
        total = max(total, place + wanted.size)
    return offsets, total
