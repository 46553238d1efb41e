"""Who waits for a worker, in /metrics and in the header that `pagoda ps` reads. Pure functions of what schedulers said."""

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from gateway.inference import Load


def queue_metrics(load: Load) -> list[Metric]:
    labels = ("model_name", "tenant")
    lengths = GaugeMetricFamily("pagoda_queue_length", "Sequences that wait for a worker.", labels=labels)
    ages = GaugeMetricFamily("pagoda_queue_oldest_seconds", "Since the one that waits longest arrived.", labels=labels)
    rate = GaugeMetricFamily("pagoda_queue_drain_rate", "Sequences that ended in a second lately, while others waited.")
    wait = GaugeMetricFamily(
        "pagoda_queue_wait_seconds", "Until a sequence that came now would have its turn, estimated."
    )
    for queue in load.queues:
        lengths.add_metric((queue.model, queue.tenant), queue.num_waiting)
        ages.add_metric((queue.model, queue.tenant), queue.oldest_s)
    rate.add_metric((), load.queue_drain_per_s)
    if not load.num_waiting or load.queue_drain_per_s:
        wait.add_metric((), load.num_waiting / load.queue_drain_per_s if load.num_waiting else 0.0)
    return [lengths, ages, rate, wait]


def queue_header(load: Load) -> dict[str, str]:
    """Beside Ollama's own format, which has no place for it."""
    oldest_s = max((queue.oldest_s for queue in load.queues), default=0.0)
    return {"x-pagoda-queue": f"waiting={load.num_waiting}, oldest_s={oldest_s:.1f}"}
