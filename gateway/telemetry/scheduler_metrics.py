"""Each scheduler's row in /metrics, as this gateway sees it. Nothing is asked of anyone."""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.upstream.placement import Placement
from gateway.upstream.schedulers import Schedulers


class SchedulerMetrics(Collector):
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
