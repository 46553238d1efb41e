"""The schedulers in /metrics and /queue: their reported load and queues, and their state as this gateway sees it."""

from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.upstream.placement import Placement
from gateway.upstream.schedulers import Schedulers
from pagoda.wire.load import SchedulerLoad

LABELS = ("model_name", "engine")
# vLLM numbers its data-parallel engines; all schedulers together count as one engine.
ENGINE = "0"


class SchedulerMetrics(Collector):
    """The state of each scheduler as this gateway sees it, without a call to any scheduler."""

    def __init__(self, schedulers: Schedulers, placement: Placement) -> None:
        self._schedulers = schedulers
        self._placement = placement

    def collect(self) -> Iterable[Metric]:
        labels = ("scheduler",)
        is_up = GaugeMetricFamily(
            "pagoda_scheduler_up", "1 while the scheduler answers and its session is open, else 0.", labels=labels
        )
        num_open = GaugeMetricFamily(
            "pagoda_scheduler_open_requests", "Number of this gateway's open requests at the scheduler.", labels=labels
        )
        retried = CounterMetricFamily(
            "pagoda_scheduler_retried_requests",
            "Number of requests that the scheduler refused and that were sent to another one.",
            labels=labels,
        )
        displaced = CounterMetricFamily(
            "pagoda_scheduler_resumed_requests",
            "Number of requests that lost their place at the scheduler, to resume on another one or after an outage.",
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
    """Return the metrics of the schedulers' joined load, labelled with one model's name."""
    num_used = sum(worker.num_pages_used for worker in load.workers)
    num_pages = sum(worker.num_pages for worker in load.workers)
    usage, index = num_used / num_pages if num_pages else 0.0, load.prefix_index
    gauges = (
        ("vllm:num_requests_running", "Number of running sequences.", load.num_running),
        ("vllm:num_requests_waiting", "Number of sequences that wait for a worker.", load.num_waiting),
        ("vllm:kv_cache_usage_perc", "Share of KV pages in use, from 0 to 1.", usage),
        ("pagoda_prefix_index_up", "1 while the shared prefix index answers, else 0.", float(index.is_reachable)),
    )
    counters = (
        (
            "vllm:prefix_cache_queries",
            "Number of prompt tokens looked up in the prefix cache.",
            load.num_prefix_queries,
        ),
        ("vllm:prefix_cache_hits", "Number of prompt tokens found in the prefix cache.", load.num_prefix_hits),
        (
            "vllm:num_preemptions",
            "Number of preemptions of running sequences, which lose their pages.",
            load.num_preemptions,
        ),
        ("pagoda_steps", "Number of steps computed by workers.", load.num_steps),
        ("pagoda_step_tokens", "Number of tokens computed in steps, of prompts and of answers.", load.num_step_tokens),
        ("pagoda_model_loads", "Number of models loaded for requests.", load.num_model_loads),
        ("pagoda_failed_model_loads", "Number of model loads that failed.", load.num_failed_model_loads),
        ("pagoda_model_unloads", "Number of models unloaded.", load.num_model_unloads),
        ("pagoda_model_load_seconds", "Total time of model loads, in seconds.", load.model_load_s),
        (
            "pagoda_prefix_index_published_blocks",
            "Number of blocks published to the prefix index.",
            index.num_published_blocks,
        ),
        (
            "pagoda_prefix_index_dropped_blocks",
            "Number of blocks that were not published to the prefix index.",
            index.num_dropped_blocks,
        ),
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
    pages = GaugeMetricFamily("pagoda_pages", "Number of KV pages by state.", labels=("worker", "state"))
    running = GaugeMetricFamily(
        "pagoda_worker_sequences", "Number of sequences that run on the worker.", labels=("worker",)
    )
    memory = GaugeMetricFamily(
        "pagoda_worker_memory_bytes",
        "Memory of the worker's weights and KV pages, in bytes.",
        labels=("worker", "content"),
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
    lengths = GaugeMetricFamily("pagoda_queue_length", "Number of sequences that wait for a worker.", labels=labels)
    ages = GaugeMetricFamily(
        "pagoda_queue_oldest_seconds", "Waiting time of the oldest waiting sequence, in seconds.", labels=labels
    )
    positions = GaugeMetricFamily(
        "pagoda_queue_next_position",
        "Position of the queue's next sequence among all waiting ones, from 1.",
        labels=labels,
    )
    rate = GaugeMetricFamily(
        "pagoda_queue_drain_rate", "Recent rate of ended sequences while others waited, per second."
    )
    wait = GaugeMetricFamily(
        "pagoda_queue_wait_seconds", "Estimated waiting time of a sequence that arrives now, in seconds."
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
    """Return the answer of /queue, which `pagoda ps` shows."""
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
    """Return the estimated waiting time of a sequence that arrives now, in seconds; None while the rate is unknown."""
    if not load.num_waiting:
        return 0.0
    return load.num_waiting / load.queue_drain_per_s if load.queue_drain_per_s else None
