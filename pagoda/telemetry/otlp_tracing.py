"""Spans that are sent to an OTLP receiver over gRPC, by OpenTelemetry's SDK. Imported only when tracing is on.

Sampling, attributes of the service, headers, certificates and limits are what OpenTelemetry's variables say (OTEL_TRACES_SAMPLER,
OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, …): the SDK reads them itself.
"""

import logging
import threading

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pagoda.telemetry.tracing import NO_ATTRIBUTES, Attributes, Span, SpanKind, TraceContext

logger = logging.getLogger(__name__)

# What the last spans get before the process ends: a receiver that is away must not hold it up.
FLUSH_TIMEOUT_S = 3.0

_KINDS = {
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CONSUMER: trace.SpanKind.CONSUMER,
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
}
_PROPAGATOR = TraceContextTextMapPropagator()


class OTLPTracer:
    def __init__(self, endpoint: str, service_name: str, instance_id: str | None = None) -> None:
        """Both names unless OpenTelemetry's variables have others. Its provider is not made the process's own: libraries
        that look for one (FastAPI, redis) would add spans that nobody asked for.
        """
        names = {SERVICE_NAME: service_name} | ({SERVICE_INSTANCE_ID: instance_id} if instance_id else {})
        resource = Resource(names).merge(OTELResourceDetector().detect())
        # Ended by `close`, which knows a limit; the SDK's own way at exit waits longer.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # Sends from a thread of its own; spans wait in a bounded queue, and are dropped when it is full.
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("pagoda")

    def start(
        self,
        name: str,
        parent: TraceContext,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> Span:
        carrier = {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
        context = _PROPAGATOR.extract(carrier) if parent.traceparent else None
        return _OTLPSpan(self._tracer.start_span(name, context, _KINDS[kind], attributes))

    def close(self) -> None:
        """Send what is left, within the limit."""
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(FLUSH_TIMEOUT_S)
        if sending.is_alive():
            logger.warning("the last spans were not sent", extra={"after_s": FLUSH_TIMEOUT_S})


class _OTLPSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.is_recording = span.is_recording()
        self.context = _context_of(span)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def annotate(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        self._span.add_event(name, attributes)

    def fail(self, reason: str) -> None:
        self._span.set_status(trace.StatusCode.ERROR, reason)

    def end(self) -> None:
        self._span.end()


def _context_of(span: trace.Span) -> TraceContext:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return TraceContext(carrier.get("traceparent", ""), carrier.get("tracestate", ""))
