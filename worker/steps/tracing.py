"""The span of a step that computes something for a traced request. A step without one costs one comparison.

The scheduler names the request that the span belongs to. The step's other sequences are only counted in it.
"""

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pagoda.wire.step_result import StepResult
from worker.steps.step import Step

_PROPAGATOR = TraceContextTextMapPropagator()


def start_step_span(tracer: Tracer, step: Step, traceparent: str) -> Span:
    """Return the step's span, a child of the sequence's span that `traceparent` names; one that records nothing if it is ""."""
    if not traceparent:
        return trace.INVALID_SPAN
    attributes = {
        "pagoda.step_id": step.step_id,
        "pagoda.num_sequences": len(step.scheduled),
        "pagoda.num_tokens": sum(scheduled.num_tokens for scheduled in step.scheduled),
    }
    parent = _PROPAGATOR.extract({"traceparent": traceparent})
    return tracer.start_span("step", parent, SpanKind.CONSUMER, attributes)


def describe_result(span: Span, result: StepResult) -> None:
    """Add to the step's span how long it took and how many tokens it sampled."""
    if span.is_recording():
        span.set_attributes({"pagoda.step_us": result.step_us, "pagoda.num_sampled": len(result.sampled)})
