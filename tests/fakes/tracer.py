"""A tracer that keeps its spans, for tests that ask which there were."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pagoda.telemetry.tracing import NO_ATTRIBUTES, Attributes, SpanKind, TraceContext


@dataclass(slots=True, eq=False)
class RecordedSpan:
    name: str
    parent: TraceContext
    context: TraceContext
    attributes: dict[str, Any]
    events: list[str] = field(default_factory=list)
    event_attributes: dict[str, Attributes] = field(default_factory=dict)
    """Of the last event of each name."""
    failure: str | None = None
    num_ends: int = 0
    is_recording: bool = True

    def rename(self, name: str) -> None:
        self.name = name

    def annotate(self, attributes: Attributes) -> None:
        self.attributes |= attributes

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        self.events.append(name)
        self.event_attributes[name] = attributes

    def fail(self, reason: str) -> None:
        self.failure = reason

    def end(self) -> None:
        self.num_ends += 1


class RecordingTracer:
    def __init__(self) -> None:
        self.spans: list[RecordedSpan] = []

    def start(
        self,
        name: str,
        parent: TraceContext,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> RecordedSpan:
        span = RecordedSpan(name, parent, TraceContext(f"span-{len(self.spans)}"), dict(attributes))
        self.spans.append(span)
        return span

    def named(self, name: str) -> list[RecordedSpan]:
        return [span for span in self.spans if span.name == name]

    def within(self, parent: RecordedSpan) -> Iterator[str]:
        return (span.name for span in self.spans if span.parent == parent.context)
