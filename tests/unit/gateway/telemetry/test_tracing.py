"""Tests of the span of an HTTP request."""

from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer, StatusCode, Tracer
from starlette.types import Message, Receive, Scope, Send

from gateway.telemetry.tracing import TraceRequests
from tests.fakes.span_recorder import SpanRecorder, attributes_of, traceparent_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE_ID}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{TRACE_ID}-b7ad6b7169203331-00"
BROKEN = [
    "",
    "00",
    f"00-{TRACE_ID}-b7ad6b7169203331",
    f"00-{TRACE_ID.upper()}-b7ad6b7169203331-01",
    f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"ff-{TRACE_ID}-b7ad6b7169203331-01",
    f"{SAMPLED}-more",
    "ü" * 40,
    "0" * 10_000,
]


async def headers_sent_on(
    tracer: Tracer, *headers: tuple[str, str], path: str = "/v1/chat/completions"
) -> dict[str, str]:
    """Return the headers that the scheduler gets for a request with these headers."""
    sent = dict[str, str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sent.update(scope["state"]["trace"].headers())

    await call(TraceRequests(app, tracer=tracer), *headers, path=path)
    return sent


async def call(app: TraceRequests, *headers: tuple[str, str], path: str = "/v1/chat/completions", **more: Any) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "state": {"request_id": "r"},
    }

    async def receive() -> Message:
        raise AssertionError("no body is read")

    async def send(message: Message) -> None:
        pass

    await app(scope | more, receive, send)


async def test_without_tracing_the_callers_trace_is_handed_on() -> None:
    sent = await headers_sent_on(NoOpTracer(), ("traceparent", SAMPLED), ("tracestate", "a=b, c=d"))
    assert sent == {"traceparent": SAMPLED, "tracestate": "a=b,c=d"}
    assert await headers_sent_on(NoOpTracer()) == {}


async def test_a_span_continues_the_callers_trace() -> None:
    recorder = SpanRecorder()
    sent = await headers_sent_on(recorder.tracer, ("traceparent", SAMPLED), ("tracestate", "a=b"))
    (span,) = recorder.spans
    assert sent == {"traceparent": traceparent_of(span), "tracestate": "a=b"}
    assert span.parent is not None and f"{span.parent.trace_id:032x}" == TRACE_ID


async def test_a_trace_that_is_not_sampled_goes_on_as_not_sampled() -> None:
    recorder = SpanRecorder()
    sent = await headers_sent_on(recorder.tracer, ("traceparent", NOT_SAMPLED))
    assert not recorder.spans
    assert sent["traceparent"].startswith(f"00-{TRACE_ID}-") and sent["traceparent"].endswith("-00")


@pytest.mark.parametrize("traceparent", BROKEN, ids=range(len(BROKEN)))
async def test_a_broken_header_begins_a_new_trace(traceparent: str) -> None:
    recorder = SpanRecorder()
    sent = await headers_sent_on(recorder.tracer, ("traceparent", traceparent), ("tracestate", "a=b"))
    (span,) = recorder.spans
    assert span.parent is None and sent == {"traceparent": traceparent_of(span)}
    assert await headers_sent_on(NoOpTracer(), ("traceparent", traceparent), ("tracestate", "a=b")) == {}


@pytest.mark.parametrize("tracestate", ["nonsense", "a=b,a=c", "a=\x7f", "a=" + "b" * 10_000], ids=range(4))
async def test_a_broken_tracestate_is_dropped(tracestate: str) -> None:
    sent = await headers_sent_on(NoOpTracer(), ("traceparent", SAMPLED), ("tracestate", tracestate))
    assert sent == {"traceparent": SAMPLED}


@pytest.mark.parametrize("path", ["/metrics", "/health", "/ping", "/ready", "/version"])
async def test_probes_make_no_span(path: str) -> None:
    recorder = SpanRecorder()
    assert await headers_sent_on(recorder.tracer, ("traceparent", SAMPLED), path=path) == {}
    assert not recorder.spans


async def test_a_span_is_named_after_its_route_and_has_the_status() -> None:
    recorder = SpanRecorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})

    route = SimpleNamespace(path="/models/{name}")
    await call(TraceRequests(app, tracer=recorder.tracer), path="/models/made-up", route=route)
    (span,) = recorder.spans
    assert span.name == "POST /models/{name}" and span.end_time is not None
    assert attributes_of(span) == {
        "http.request.method": "POST",
        "url.path": "/models/made-up",
        "url.scheme": "http",
        "pagoda.http_request_id": "r",
        "http.response.status_code": 503,
        "http.route": "/models/{name}",
    }
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "status 503")


async def test_an_exception_is_named_and_raised_on() -> None:
    recorder = SpanRecorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("a secret")

    with pytest.raises(ZeroDivisionError):
        await call(TraceRequests(app, tracer=recorder.tracer))
    (span,) = recorder.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ZeroDivisionError")
    assert span.end_time is not None and not span.events
