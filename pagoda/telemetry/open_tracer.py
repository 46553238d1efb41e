"""The tracer of a process: OpenTelemetry's SDK if spans have an OTLP endpoint to go to, a no-op otherwise.

The SDK reads OpenTelemetry's own variables for the sampler, the resource attributes, headers, certificates and limits
(OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, …).
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.trace import NoOpTracer, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

# The last spans get this long when the process ends: an unreachable receiver must not delay it further.
FLUSH_TIMEOUT_S = 3.0


@contextmanager
def open_tracer(otlp_endpoint: str, service_name: str, instance_id: str | None = None) -> Iterator[Tracer]:
    """Yield the process's tracer, and at the end of the block send the spans that are left.

    OpenTelemetry's variables take precedence over both names.
    """
    if not otlp_endpoint:
        yield NoOpTracer()
        return
    provider = _open_provider(otlp_endpoint, service_name, instance_id)
    try:
        # Not installed as the global provider: FastAPI and redis would find it there and add spans of their own.
        yield provider.get_tracer("pagoda")
    finally:
        _close_provider(provider)


def _open_provider(otlp_endpoint: str, service_name: str, instance_id: str | None) -> "TracerProvider":
    # Only processes that trace have the SDK and pay for its import.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = {SERVICE_NAME: service_name} | ({SERVICE_INSTANCE_ID: instance_id} if instance_id else {})
    resource = Resource(names).merge(OTELResourceDetector().detect())
    # The SDK's own shutdown at exit has no limit of FLUSH_TIMEOUT_S.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # A thread of its own sends the spans from a bounded queue, and drops them when the queue is full.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint)))
    return provider


def _close_provider(provider: "TracerProvider") -> None:
    sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    sending.start()
    sending.join(FLUSH_TIMEOUT_S)
    if sending.is_alive():
        logger.warning("last spans not sent", extra={"after_s": FLUSH_TIMEOUT_S})
