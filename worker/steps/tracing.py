"""A span around each step that computes something for a traced request. A step without one costs a comparison.

The span belongs to one request, the one that the scheduler names; what the step computes for others is told as a number.
"""

from pagoda.telemetry.tracing import SilentSpan, Span, SpanKind, TraceContext, Tracer
from pagoda.wire.step_result import StepResult
from worker.steps.step import Step


def start_step_span(tracer: Tracer, step: Step, traceparent: str) -> Span:
    parent = TraceContext(traceparent)
    if not traceparent:
        return SilentSpan(parent)
    attributes = {
        "pagoda.step_id": step.step_id,
        "pagoda.num_sequences": len(step.scheduled),
        "pagoda.num_tokens": sum(scheduled.num_tokens for scheduled in step.scheduled),
    }
    return tracer.start("step", parent, SpanKind.CONSUMER, attributes)


def describe_result(span: Span, result: StepResult) -> None:
    if span.is_recording:
        span.annotate({"pagoda.step_us": result.step_us, "pagoda.num_sampled": len(result.sampled)})
