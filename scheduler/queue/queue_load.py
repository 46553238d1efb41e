"""Who waits, as it is told to gateways: one row for each model and tenant. A pure function."""

from dataclasses import dataclass

from scheduler.queue.fair_queue import FairQueue

# Tenants are whatever clients say they are, and each row becomes time series.
MAX_TENANTS = 20
OTHER_TENANTS = "other"

_Row = tuple[str, str]
"""A model and a tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    model: str
    tenant: str
    num_waiting: int
    oldest_s: float
    """Since the one that waits longest arrived."""
    next_position: int
    """Of the one that is admitted first, among all that wait; the first is 1."""


def queue_loads(waiting: FairQueue, now_s: float) -> list[QueueLoad]:
    """The tenants with the most that wait have rows of their own, the others share one for each model."""
    arrivals: dict[_Row, list[float]] = {}
    for sequence in waiting.in_any_order():
        arrivals.setdefault((sequence.model, sequence.tenant), []).append(sequence.arrival_s)
    positions = _next_positions(waiting, len(arrivals))
    ranked = sorted(arrivals, key=lambda row: (-len(arrivals[row]), row))
    merged: dict[_Row, list[_Row]] = {}
    for number, (model, tenant) in enumerate(ranked):
        merged.setdefault((model, tenant if number < MAX_TENANTS else OTHER_TENANTS), []).append((model, tenant))
    return [
        QueueLoad(
            model=model,
            tenant=tenant,
            num_waiting=sum(len(arrivals[row]) for row in rows),
            oldest_s=now_s - min(min(arrivals[row]) for row in rows),
            next_position=min(positions[row] for row in rows),
        )
        for (model, tenant), rows in merged.items()
    ]


def _next_positions(waiting: FairQueue, num_rows: int) -> dict[_Row, int]:
    """The order is worked out no further than to the last row's next one: soon, where shares are fair."""
    positions: dict[_Row, int] = {}
    for position, sequence in enumerate(waiting, start=1):
        positions.setdefault((sequence.model, sequence.tenant), position)
        if len(positions) == num_rows:
            break
    return positions
