"""What /metrics and /queue say of the schedulers: their load and their queues, as they told, and how this gateway sees them."""

from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.upstream.placement import Placement
from gateway.upstream.schedulers import Schedulers
from pagoda.wire.load import SchedulerLoad

LABELS = ("model_name", "engine")
# vLLM numbers its data-parallel engines; a scheduler is one engine, however many workers it has.
ENGINE = "0"


class SchedulerMetrics(Collector):
    """Each scheduler's row in /metrics, as this gateway sees it. No scheduler is asked for it."""

    def __init__(self, schedulers: Schedulers, placement: Placement) -> None:
        self._schedulers = schedulers
        self._placement = placement

    def collect(self) -> Iterable[Metric]:
        labels = ("scheduler",)
        is_up = GaugeMetricFamily("pagoda_scheduler_up", "1 while it answers and its session is open.", labels=labels)
        num_open = GaugeMetricFamily("pagoda_scheduler_open_requests", "Requests of this gateway there.", labels=labels)
        retried = CounterMetricFamily(
            "pagoda_scheduler_retried_requests", "Requests refused there and tried at another one.", labels=labels
        )
        displaced = CounterMetricFamily(
            "pagoda_scheduler_resumed_requests",
            "Requests that lost their place there, to go on elsewhere or after an outage.",
            labels=labels,
        )
        for client in self._schedulers.clients:
            row = (client.address,)
            is_up.add_metric(row, float(client.is_connected))
            num_open.add_metric(row, client.num_open)
            retried.add_metric(row, self._placement.num_retried[client.address])
            displaced.add_metric(row, self._placement.num_displaced[client.address])
        return (is_up, num_open, retried, displaced)


def scheduler_metrics(load: SchedulerLoad, model_name: str) -> list[Metric]:
    """Return what all schedulers told together, under one model's name."""
    num_used = sum(worker.num_pages_used for worker in load.workers)
    num_pages = sum(worker.num_pages for worker in load.workers)
    usage, index = num_used / num_pages if num_pages else 0.0, load.prefix_index
    gauges = (
        ("vllm:num_requests_running", "Sequences that a worker computes.", load.num_running),
        ("vllm:num_requests_waiting", "Sequences that wait for a worker.", load.num_waiting),
        ("vllm:kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.", usage),
        ("pagoda_prefix_index_up", "1 while the shared prefix index answers.", float(index.is_reachable)),
    )
    counters = (
        ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", load.num_prefix_queries),
        ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", load.num_prefix_hits),
        ("vllm:num_preemptions", "Sequences whose pages were taken away.", load.num_preemptions),
        ("pagoda_steps", "Steps that workers have computed.", load.num_steps),
        ("pagoda_step_tokens", "Tokens that those steps computed, of prompts and of answers.", load.num_step_tokens),
        ("pagoda_model_loads", "Models loaded because somebody asked for them.", load.num_model_loads),
        ("pagoda_failed_model_loads", "Models that could not be loaded.", load.num_failed_model_loads),
        ("pagoda_model_unloads", "Models that left memory.", load.num_model_unloads),
        ("pagoda_model_load_seconds", "How long those loads took, in all.", load.model_load_s),
        ("pagoda_prefix_index_published_blocks", "Blocks that the index took.", index.num_published_blocks),
        ("pagoda_prefix_index_dropped_blocks", "Blocks that it did not take.", index.num_dropped_blocks),
    )
    families: list[Metric] = []
    for name, text, value in gauges:
        gauge = GaugeMetricFamily(name, text, labels=LABELS)
        gauge.add_metric((model_name, ENGINE), value)
        families.append(gauge)
    for name, text, value in counters:
        counter = CounterMetricFamily(name, text, labels=LABELS)
        counter.add_metric((model_name, ENGINE), value)
        families.append(counter)
    return [*families, *_worker_metrics(load), *_queue_metrics(load)]


def _worker_metrics(load: SchedulerLoad) -> list[Metric]:
    pages = GaugeMetricFamily("pagoda_pages", "KV pages by state.", labels=("worker", "state"))
    running = GaugeMetricFamily("pagoda_worker_sequences", "Sequences that the worker computes.", labels=("worker",))
    memory = GaugeMetricFamily(
        "pagoda_worker_memory_bytes", "What weights and pages take.", labels=("worker", "content")
    )
    for worker in load.workers:
        pages.add_metric((worker.worker_id, "free"), worker.num_pages_free)
        pages.add_metric((worker.worker_id, "cached"), worker.num_pages_cached)
        pages.add_metric((worker.worker_id, "used"), worker.num_pages_used)
        running.add_metric((worker.worker_id,), worker.num_running)
        memory.add_metric((worker.worker_id, "weights"), worker.weights_bytes)
        memory.add_metric((worker.worker_id, "pages"), worker.kv_bytes)
    return [pages, running, memory]


def _queue_metrics(load: SchedulerLoad) -> list[Metric]:
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


def queue_object(load: SchedulerLoad) -> dict[str, Any]:
    """Return what /queue answers and `pagoda ps` shows."""
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


def _wait_s(load: SchedulerLoad) -> float | None:
    """Estimate when a sequence that came now would have its turn; None while nothing is known of the rate."""
    if not load.num_waiting:
        return 0.0
    return load.num_waiting / load.queue_drain_per_s if load.queue_drain_per_s else None
