"""Who waits for a worker, as /metrics and /queue tell it. Pure functions of what schedulers said."""

from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from gateway.upstream.inference import Load


def queue_metrics(load: Load) -> list[Metric]:
    labels = ("model_name", "tenant")
    lengths = GaugeMetricFamily("pagoda_queue_length", "Sequences that wait for a worker.", labels=labels)
    ages = GaugeMetricFamily("pagoda_queue_oldest_seconds", "Since the one that waits longest arrived.", labels=labels)
    positions = GaugeMetricFamily(
        "pagoda_queue_next_position", "Of the next one among all that wait; the first is 1.", labels=labels
    )
    rate = GaugeMetricFamily("pagoda_queue_drain_rate", "Sequences that ended in a second lately, while others waited.")
    wait = GaugeMetricFamily(
        "pagoda_queue_wait_seconds", "Until a sequence that came now would have its turn, estimated."
    )
    for queue in load.queues:
        row = (queue.model, queue.tenant)
        lengths.add_metric(row, queue.num_waiting)
        ages.add_metric(row, queue.oldest_s)
        positions.add_metric(row, queue.next_position)
    rate.add_metric((), load.queue_drain_per_s)
    if (wait_s := _wait_s(load)) is not None:
        wait.add_metric((), wait_s)
    return [lengths, ages, positions, rate, wait]


def queue_object(load: Load) -> dict[str, Any]:
    """What `pagoda ps` shows."""
    return {
        "num_waiting": load.num_waiting,
        "num_running": load.num_running,
        "wait_s": _wait_s(load),
        "queues": [
            {
                "model": queue.model,
                "tenant": queue.tenant,
                "num_waiting": queue.num_waiting,
                "oldest_s": round(queue.oldest_s, 3),
                "next_position": queue.next_position,
            }
            for queue in sorted(load.queues, key=lambda queue: (queue.next_position, queue.model, queue.tenant))
        ],
    }


def _wait_s(load: Load) -> float | None:
    """Until a sequence that came now would have its turn; None while nothing is known of the rate."""
    if not load.num_waiting:
        return 0.0
    return load.num_waiting / load.queue_drain_per_s if load.queue_drain_per_s else None
