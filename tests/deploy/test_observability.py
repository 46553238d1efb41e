"""Tests of the configuration of Prometheus, Grafana and the collector: it parses, and its metrics are exported."""

import json
import re
from pathlib import PurePosixPath
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.metrics import GatewayMetrics
from pagoda.wire.load import SchedulerLoad
from protos.v1 import inference_pb2
from tests.deploy.compose import resolved_compose
from tests.deploy.image import REPOSITORY, image

DEPLOY = REPOSITORY / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "pagoda.json").read_text())
QUERIES: list[tuple[str, str]] = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]


def read(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text())
    return content


def some_load() -> SchedulerLoad:
    """Return a load of one worker and one queue; its numbers do not matter here."""
    workers, queues = [inference_pb2.WorkerLoad(worker_id="w")], [inference_pb2.QueueLoad(model="m", tenant="t")]
    return SchedulerLoad.from_proto(inference_pb2.GetLoadResponse(workers=workers, queues=queues))


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Return the labels of each sample in /metrics after some events."""
    metrics = GatewayMetrics("tiny", 1000)
    metrics.http_requests.labels("/v1/completions", "POST", "2xx").inc()
    metrics.for_model("tiny").count_end("stop")
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.exposition(some_load()).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


def selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(expression, visit)
    return found


@pytest.mark.parametrize(("panel", "query"), QUERIES, ids=[f"{title}-{n}" for n, (title, _) in enumerate(QUERIES)])
def test_panels_ask_for_what_is_exported(panel: str, query: str, exported: dict[str, set[str]]) -> None:
    expression = promql_parser.parse(query.replace("$__rate_interval", "1m"))
    asked = selectors(expression)
    assert asked
    for selector in asked:
        assert selector.name is not None and selector.name in exported, f"{panel}: {selector.name} is not in /metrics"
        assert {matcher.name for matcher in selector.matchers.matchers} <= exported[selector.name]
    for labels in re.findall(r"by \(([^)]*)\)", query):
        wanted = set(labels.replace(" ", "").split(","))
        assert all(wanted <= exported[selector.name or ""] for selector in asked)


def test_the_dashboard_shows_what_matters() -> None:
    queries = " ".join(query for _, query in QUERIES)
    for metric in (
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:e2e_request_latency_seconds_bucket",
        "vllm:generation_tokens_total",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "pagoda_queue_length",
        "pagoda_queue_next_position",
        "pagoda_queue_oldest_seconds",
        "pagoda_queue_wait_seconds",
        "pagoda_pages",
        "vllm:prefix_cache_hits_total",
        "http_requests_total",
    ):
        assert metric in queries


def test_the_dashboard_is_laid_out() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in DASHBOARD["panels"]
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken) and max(x for x, _ in taken) < 24


def test_panels_use_the_provisioned_data_source() -> None:
    provisioned = read("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    sources = {source["uid"]: source for source in provisioned}
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    used = {(target["datasource"]["uid"], target["datasource"]["type"]) for target in targets}
    assert used == {("prometheus", sources["prometheus"]["type"])}
    interval = read("prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert sources["prometheus"]["jsonData"]["timeInterval"] == interval


def test_prometheus_scrapes_the_gateways_with_the_key() -> None:
    (job,) = [job for job in read("prometheus/prometheus.yml")["scrape_configs"] if job["job_name"] == "pagoda"]
    (discovery,) = job["dns_sd_configs"]
    services = resolved_compose()["services"]
    assert all(name in services for name in discovery["names"])
    assert str(discovery["port"]) == image("gateway").environment["PAGODA_GATEWAY_PORT"]
    (secret,) = services["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret['source']}"


def test_the_collector_is_wired_from_the_tiers_to_jaeger() -> None:
    collector, services = read("otel/collector.yaml"), resolved_compose()["services"]
    (pipeline,) = collector["service"]["pipelines"].values()
    for part in ("receivers", "processors", "exporters"):
        assert set(pipeline[part]) == set(collector[part])
    assert collector["exporters"]["otlp/jaeger"]["endpoint"].partition(":")[0] in services
    listening = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    for tier in ("gateway", "scheduler", "worker"):
        assert services[tier]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://otel-collector:{listening}"


def test_grafana_finds_its_files() -> None:
    grafana = resolved_compose()["services"]["grafana"]
    mounted = {PurePosixPath(mount["target"]) for mount in grafana["volumes"]}
    (provider,) = read("grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    directory = PurePosixPath(provider["options"]["path"])
    assert directory in mounted and PurePosixPath("/etc/grafana/provisioning") in mounted
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(directory / "pagoda.json")
