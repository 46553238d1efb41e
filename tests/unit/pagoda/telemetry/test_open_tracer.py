"""Tests of the tracer that a process opens."""

import subprocess
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pagoda.telemetry import open_tracer as module
from pagoda.telemetry.open_tracer import open_tracer

NOBODY = "http://127.0.0.1:9"
PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b,c=d"}


def continued(tracer: trace.Tracer, headers: dict[str, str]) -> dict[str, str]:
    """Return the headers that a span forwards if its own parent came with `headers`."""
    propagator, sent = TraceContextTextMapPropagator(), dict[str, str]()
    span = tracer.start_span("any", propagator.extract(headers))
    propagator.inject(sent, trace.set_span_in_context(span))
    return sent


def test_without_an_endpoint_a_trace_is_handed_on_unchanged() -> None:
    with open_tracer("", "pagoda") as tracer:
        assert continued(tracer, PARENT) == PARENT
        assert continued(tracer, {}) == {}
        assert not tracer.start_span("any").is_recording()


def test_with_an_endpoint_the_trace_goes_on_in_a_span_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracerProvider, "shutdown", lambda self: None)
    with open_tracer(NOBODY, "pagoda", "instance 1") as tracer:
        assert isinstance(tracer, Tracer)
        assert dict(tracer.resource.attributes)["service.instance.id"] == "instance 1"
        sent = continued(tracer, PARENT)
        assert not isinstance(trace.get_tracer_provider(), TracerProvider)
    assert sent["traceparent"].split("-")[1] == PARENT["traceparent"].split("-")[1]
    assert sent["traceparent"] != PARENT["traceparent"] and sent["tracestate"] == PARENT["tracestate"]


def test_a_callers_tracestate_is_not_copied_into_the_log() -> None:
    code = (
        "from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator\n"
        "from pagoda.process.logging import configure_logging\n"
        "configure_logging('info', 'text')\n"
        f"headers = {PARENT | {'tracestate': 'a forged line'}}\n"
        "assert TraceContextTextMapPropagator().extract(headers)"
    )
    extracted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (extracted.returncode, extracted.stderr) == (0, "")


def test_the_last_spans_are_waited_for_within_a_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released, ended = threading.Event(), threading.Event()

    def shutdown(provider: TracerProvider) -> None:
        released.wait()
        ended.set()

    monkeypatch.setattr(TracerProvider, "shutdown", shutdown)
    monkeypatch.setattr(module, "FLUSH_TIMEOUT_S", 0.01)
    with open_tracer(NOBODY, "pagoda"):
        pass
    assert not ended.is_set()
    (record,) = caplog.records
    assert (record.message, vars(record)["after_s"]) == ("last spans not sent", 0.01)
    released.set()
    ended.wait()
