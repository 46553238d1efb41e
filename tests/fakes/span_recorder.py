"""A real tracer of OpenTelemetry's SDK whose spans stay in the test's process."""

from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class SpanRecorder(SpanProcessor):
    """A recorder of the spans of `tracer`, in the order in which they were started.

    Without a parent a span is recorded if `samples_roots` is true; with one, if the parent is sampled.
    """

    def __init__(self, *, samples_roots: bool = True) -> None:
        self.spans: list[Span] = []
        sampler = ParentBased(ALWAYS_ON if samples_roots else ALWAYS_OFF)
        provider = TracerProvider(sampler, Resource.get_empty(), shutdown_on_exit=False)
        provider.add_span_processor(self)
        self.tracer = provider.get_tracer("tests")

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.spans.append(span)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def children_of(self, parent: ReadableSpan) -> Iterator[str]:
        """Yield the names of a span's children."""
        return (span.name for span in self.spans if span.parent == parent.context)


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def events_of(span: ReadableSpan) -> list[str]:
    """Return the names of a span's events."""
    return [event.name for event in span.events]


def traceparent_of(span: trace.Span) -> str:
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
    return headers["traceparent"]
