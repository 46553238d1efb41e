"""Spans as the tiers make them: two small protocols, what they are when tracing is off, and the way to turn it on.

Knows nothing about OpenTelemetry, which is imported with otlp_tracing.py and only when there is an endpoint to send to.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol
from urllib.parse import urlsplit

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


@contextmanager
def open_tracer(otlp_endpoint: str, service_name: str, instance_id: str | None = None) -> Iterator[Tracer]:
    """The tracer of this process. When the block is left, what is not sent yet gets a moment to be sent."""
    if not otlp_endpoint:
        yield SILENT_TRACER
        return
    from pagoda.otlp_tracing import OTLPTracer

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
        raise ValueError("needs OpenTelemetry's packages, which are not installed: pip install 'pagoda[tracing]'")
