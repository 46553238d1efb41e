"""The default and the check of the setting that turns tracing on."""

import importlib.util
import os
from urllib.parse import urlsplit

from pagoda.distribution import install_command


def default_otlp_endpoint() -> str:
    """Return the endpoint for traces in OpenTelemetry's own variables, or "" if there is none."""
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""


def check_otlp_endpoint(endpoint: str) -> str:
    """Return the endpoint; "" turns tracing off.

    Raises ValueError if it is not a URL, or if OpenTelemetry's SDK or its exporter is not installed.
    """
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
            f"must be the URL of an OTLP receiver for gRPC, such as http://127.0.0.1:4317 (got {endpoint!r})"
        )


def _check_packages() -> None:
    try:
        is_installed = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:
        is_installed = False
    if not is_installed:
        raise ValueError(f"needs OpenTelemetry's SDK, which is not installed: {install_command('tracing')}")
