"""What the gateway reports to Prometheus: vLLM's names and buckets where the meaning is the same, so that its dashboards work.

The gateway measures requests; the schedulers' numbers (scheduler_metrics.py) are fetched when Prometheus asks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from gateway.telemetry.scheduler_metrics import ENGINE, LABELS, scheduler_metrics
from pagoda.wire.load import SchedulerLoad

LATENCY_BUCKETS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
ITL_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)


class ModelMetrics:
    """What is measured of the requests for one model."""

    def __init__(self, families: "_RequestFamilies", model_name: str) -> None:
        def child(family: Counter | Histogram) -> Any:
            return family.labels(model_name, ENGINE)

        self._request_success, self._model_name = families.request_success, model_name
        self.prompt_tokens: Counter = child(families.prompt_tokens)
        self.generation_tokens: Counter = child(families.generation_tokens)
        self.moved: Counter = child(families.moved)
        self.ttft: Histogram = child(families.ttft)
        self.itl: Histogram = child(families.itl)
        self.tpot: Histogram = child(families.tpot)
        self.e2e: Histogram = child(families.e2e)
        self.queue_time: Histogram = child(families.queue_time)
        self.prefill_time: Histogram = child(families.prefill_time)
        self.decode_time: Histogram = child(families.decode_time)
        self.request_prompt_tokens: Histogram = child(families.request_prompt_tokens)
        self.request_generation_tokens: Histogram = child(families.request_generation_tokens)

    def count_end(self, finished_reason: str) -> None:
        self._request_success.labels(self._model_name, ENGINE, finished_reason).inc()


class GatewayMetrics:
    """One registry per app, so that two apps in one process do not meet."""

    def __init__(self, model_name: str, max_position: int) -> None:
        """`model_name` is the label of the scheduler's numbers, which are of all models."""
        self._model_name = model_name
        self.registry = CollectorRegistry()
        self.http_requests = Counter(
            "http_requests", "HTTP requests by route.", ("handler", "method", "status"), registry=self.registry
        )
        self._families = _RequestFamilies(self.registry, max_position)
        self._of_model: dict[str, ModelMetrics] = {}
        self.for_model(model_name)  # There from the first scrape on.

    def for_model(self, model_name: str) -> ModelMetrics:
        if model_name not in self._of_model:
            self._of_model[model_name] = ModelMetrics(self._families, model_name)
        return self._of_model[model_name]

    def exposition(self, load: SchedulerLoad | None) -> bytes:
        """Prometheus text; without the scheduler's numbers when it could not be asked."""
        own = generate_latest(self.registry)
        return own if load is None else own + generate_latest(_Fixed(scheduler_metrics(load, self._model_name)))


class _RequestFamilies:
    def __init__(self, registry: CollectorRegistry, max_position: int) -> None:
        def counter(name: str, text: str, labels: Sequence[str] = LABELS) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, LABELS, buckets=buckets, registry=registry)

        tokens = _token_buckets(max_position)
        self.request_success = counter("vllm:request_success", "Ended samples.", (*LABELS, "finished_reason"))
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens of admitted requests.")
        self.generation_tokens = counter("vllm:generation_tokens", "Generated tokens.")
        self.moved = counter(
            "pagoda_moved_samples", "Samples that went on after their worker or scheduler was lost or left."
        )
        self.ttft = histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS)
        self.itl = histogram("vllm:inter_token_latency_seconds", "Gaps between tokens.", ITL_BUCKETS)
        self.tpot = histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per token after the first.", ITL_BUCKETS
        )
        self.e2e = histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", LATENCY_BUCKETS)
        self.queue_time = histogram("vllm:request_queue_time_seconds", "Waiting for a worker.", LATENCY_BUCKETS)
        self.prefill_time = histogram("vllm:request_prefill_time_seconds", "Prefill.", LATENCY_BUCKETS)
        self.decode_time = histogram("vllm:request_decode_time_seconds", "Decode.", LATENCY_BUCKETS)
        self.request_prompt_tokens = histogram("vllm:request_prompt_tokens", "Prompt tokens.", tokens)
        self.request_generation_tokens = histogram("vllm:request_generation_tokens", "Output tokens.", tokens)


def _token_buckets(largest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, … up to the longest sequence."""
    series = (digit * 10**exponent for exponent in range(9) for digit in (1, 2, 5))
    return tuple(bucket for bucket in series if bucket <= largest) or (1,)


class _Fixed(CollectorRegistry):
    """A registry of numbers that were gathered already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
