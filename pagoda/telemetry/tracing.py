"""Spans as the tiers make them: two small protocols, and what they are when tracing is off. open_tracer.py turns it on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]
NO_ATTRIBUTES: Attributes = {}


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The W3C headers by which a span becomes the parent of others; empty without one."""

    traceparent: str = ""
    tracestate: str = ""


class SpanKind(Enum):
    SERVER = auto()
    """Answers a call from outside the process."""
    CONSUMER = auto()
    """Works on something that was queued elsewhere."""
    INTERNAL = auto()


class Span(Protocol):
    """Calls return at once, whether or not anyone receives the span."""

    @property
    def context(self) -> TraceContext:
        """What those called on behalf of this span are told."""

    @property
    def is_recording(self) -> bool:
        """False where the trace is not sampled: then no attribute needs to be computed."""

    def rename(self, name: str) -> None: ...

    def annotate(self, attributes: Attributes) -> None: ...

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None: ...

    def fail(self, reason: str) -> None: ...

    def end(self) -> None: ...


class Tracer(Protocol):
    def start(
        self,
        name: str,
        parent: TraceContext,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> Span:
        """A span that begins now. Without a parent, or with one that cannot be read, it begins a trace."""


class SilentSpan:
    """Records nothing, and hands its parent on: who is called continues the caller's trace."""

    is_recording = False

    def __init__(self, parent: TraceContext) -> None:
        self.context = parent

    def rename(self, name: str) -> None:
        pass

    def annotate(self, attributes: Attributes) -> None:
        pass

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass

    def end(self) -> None:
        pass


class SilentTracer:
    def start(
        self,
        name: str,
        parent: TraceContext,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> Span:
        return SilentSpan(parent)


SILENT_TRACER = SilentTracer()
