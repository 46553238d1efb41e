"""Who waits, as it is told to gateways: one row for each model and tenant. A pure function."""

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.sequence import Sequence

# Tenants are whatever clients say they are, and each row becomes time series.
MAX_TENANTS = 20
OTHER_TENANTS = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    model: str
    tenant: str
    num_waiting: int
    oldest_s: float
    """Since the one that waits longest arrived."""


def queue_loads(waiting: Iterable[Sequence], now_s: float) -> list[QueueLoad]:
    """The tenants with the most that wait have rows of their own, the others share one for each model."""
    arrivals: dict[tuple[str, str], list[float]] = {}
    for sequence in waiting:
        arrivals.setdefault((sequence.model, sequence.tenant), []).append(sequence.arrival_s)
    ranked = sorted(arrivals.items(), key=lambda row: (-len(row[1]), row[0]))
    merged: dict[tuple[str, str], list[float]] = {}
    for number, ((model, tenant), times) in enumerate(ranked):
        merged.setdefault((model, tenant if number < MAX_TENANTS else OTHER_TENANTS), []).extend(times)
    return [
        QueueLoad(model=model, tenant=tenant, num_waiting=len(times), oldest_s=now_s - min(times))
        for (model, tenant), times in merged.items()
    ]
