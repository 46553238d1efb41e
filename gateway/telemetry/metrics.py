"""The gateway's Prometheus metrics. Those with the meaning of vLLM's have its names and buckets, so that its dashboards work.

The gateway measures requests. The schedulers' numbers (scheduler_metrics.py) are fetched at each scrape.
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
    """The metrics of the requests for one model."""

    def __init__(self, families: "_RequestFamilies", model_name: str) -> None:
        def child(family: Counter | Histogram) -> Any:
            return family.labels(model_name, ENGINE)

        self._request_success, self._model_name = families.request_success, model_name
        self._requests_by_constraint = families.requests_by_constraint
        self.prompt_tokens: Counter = child(families.prompt_tokens)
        self.generation_tokens: Counter = child(families.generation_tokens)
        self.moved: Counter = child(families.moved)
        self.tool_calls: Counter = child(families.tool_calls)
        self.ttft: Histogram = child(families.ttft)
        self.itl: Histogram = child(families.itl)
        self.tpot: Histogram = child(families.tpot)
        self.e2e: Histogram = child(families.e2e)
        self.queue_time: Histogram = child(families.queue_time)
        self.prefill_time: Histogram = child(families.prefill_time)
        self.decode_time: Histogram = child(families.decode_time)
        self.request_prompt_tokens: Histogram = child(families.request_prompt_tokens)
        self.request_generation_tokens: Histogram = child(families.request_generation_tokens)

    def count_constraint(self, constraint: str) -> None:
        """Count a request by what its constraint holds."""
        self._requests_by_constraint.labels(self._model_name, ENGINE, constraint).inc()

    def count_end(self, finished_reason: str) -> None:
        """Count an ended sample."""
        self._request_success.labels(self._model_name, ENGINE, finished_reason).inc()


class GatewayMetrics:
    """The metrics of one app, in a separate registry, so that two apps in one process do not share them."""

    def __init__(self, model_name: str, max_position: int) -> None:
        """Create the registry. `model_name` labels the schedulers' numbers, which cover all models."""
        self._model_name = model_name
        self.registry = CollectorRegistry()
        self.http_requests = Counter(
            "http_requests",
            "HTTP requests by route, method and status.",
            ("handler", "method", "status"),
            registry=self.registry,
        )
        self._families = _RequestFamilies(self.registry, max_position)
        self._of_model: dict[str, ModelMetrics] = {}
        self.for_model(model_name)  # so that the first scrape has them

    def for_model(self, model_name: str) -> ModelMetrics:
        """Return the metrics of the model, created at the first call."""
        if model_name not in self._of_model:
            self._of_model[model_name] = ModelMetrics(self._families, model_name)
        return self._of_model[model_name]

    def exposition(self, load: SchedulerLoad | None) -> bytes:
        """Return the metrics in Prometheus' text format, with the schedulers' numbers if `load` has them."""
        own = generate_latest(self.registry)
        return own if load is None else own + generate_latest(_Fixed(scheduler_metrics(load, self._model_name)))


class _RequestFamilies:
    def __init__(self, registry: CollectorRegistry, max_position: int) -> None:
        def counter(name: str, text: str, labels: Sequence[str] = LABELS) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, LABELS, buckets=buckets, registry=registry)

        tokens = _token_buckets(max_position)
        self.request_success = counter(
            "vllm:request_success", "Number of ended samples by reason.", (*LABELS, "finished_reason")
        )
        self.prompt_tokens = counter("vllm:prompt_tokens", "Number of prompt tokens of admitted requests.")
        self.generation_tokens = counter("vllm:generation_tokens", "Number of generated tokens.")
        self.moved = counter(
            "pagoda_moved_samples", "Number of samples that resumed after their worker or scheduler was lost or left."
        )
        self.requests_by_constraint = counter(
            "pagoda_requests_by_constraint",
            "Number of requests by what a grammar or a budget holds: answer, calls, reasoning or none.",
            (*LABELS, "constraint"),
        )
        self.tool_calls = counter("pagoda_tool_calls", "Number of tool calls in finished answers.")
        self.ttft = histogram(
            "vllm:time_to_first_token_seconds", "Time from arrival to the first token, in seconds.", TTFT_BUCKETS
        )
        self.itl = histogram("vllm:inter_token_latency_seconds", "Time between two tokens, in seconds.", ITL_BUCKETS)
        self.tpot = histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first, in seconds.",
            ITL_BUCKETS,
        )
        self.e2e = histogram(
            "vllm:e2e_request_latency_seconds", "Time from arrival to the last token, in seconds.", LATENCY_BUCKETS
        )
        self.queue_time = histogram(
            "vllm:request_queue_time_seconds", "Time in the queue, in seconds.", LATENCY_BUCKETS
        )
        self.prefill_time = histogram(
            "vllm:request_prefill_time_seconds", "Time of the prefill, in seconds.", LATENCY_BUCKETS
        )
        self.decode_time = histogram(
            "vllm:request_decode_time_seconds", "Time of the decode, in seconds.", LATENCY_BUCKETS
        )
        self.request_prompt_tokens = histogram(
            "vllm:request_prompt_tokens", "Number of prompt tokens per sample.", tokens
        )
        self.request_generation_tokens = histogram(
            "vllm:request_generation_tokens", "Number of output tokens per sample.", tokens
        )


def _token_buckets(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50, … up to the longest sequence."""
    series = (digit * 10**exponent for exponent in range(9) for digit in (1, 2, 5))
    return tuple(bucket for bucket in series if bucket <= largest) or (1,)


class _Fixed(CollectorRegistry):
    """A registry of metrics that were collected before."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
