"""Turns tracing on where there is an endpoint to send spans to. Only then is OpenTelemetry imported, with otlp_tracing.py."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pagoda.distribution import install_command
from pagoda.telemetry.tracing import SILENT_TRACER, Tracer


@contextmanager
def open_tracer(otlp_endpoint: str, service_name: str, instance_id: str | None = None) -> Iterator[Tracer]:
    """The tracer of this process. When the block is left, what is not sent yet gets a moment to be sent."""
    if not otlp_endpoint:
        yield SILENT_TRACER
        return
    from pagoda.telemetry.otlp_tracing import OTLPTracer

    tracer = OTLPTracer(otlp_endpoint, service_name, instance_id)
    try:
        yield tracer
    finally:
        tracer.close()


def default_otlp_endpoint() -> str:
    """Where OpenTelemetry's own variables say that traces go."""
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""


def check_otlp_endpoint(endpoint: str) -> str:
    """The endpoint, if spans can be sent there from here; raises ValueError that says what to change. Empty is off."""
    if endpoint:
        _check_url(endpoint)
        _check_packages()
    return endpoint


def _check_url(endpoint: str) -> None:
    try:
        url = urlsplit(endpoint)
        is_complete = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError(
            f"must be the URL of an OTLP receiver for gRPC, such as http://127.0.0.1:4317, got {endpoint!r}"
        )


def _check_packages() -> None:
    try:
        is_there = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise ValueError(f"needs OpenTelemetry's packages, which are not installed: {install_command('tracing')}")
