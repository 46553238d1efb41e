"""A span around each step that computes something for a traced request. A step without one costs a comparison.

The span belongs to one request, the one that the scheduler names; what the step computes for others is told as a number.
"""

from pagoda.tracing import SilentSpan, Span, SpanKind, TraceContext, Tracer
from protos.v1 import worker_pb2
from worker.step import StepResult


def start_step_span(tracer: Tracer, step: worker_pb2.Step) -> Span:
    parent = TraceContext(step.traceparent)
    if not step.traceparent:
        return SilentSpan(parent)
    num_decoding = len(step.decode_batch.sequence_ids)
    attributes = {
        "pagoda.step_id": step.step_id,
        "pagoda.num_sequences": len(step.scheduled) + num_decoding,
        "pagoda.num_tokens": sum(scheduled.num_tokens for scheduled in step.scheduled) + num_decoding,
    }
    return tracer.start("step", parent, SpanKind.CONSUMER, attributes)


def describe_result(span: Span, result: StepResult) -> None:
    if span.is_recording:
        span.annotate({"pagoda.step_us": result.step_us, "pagoda.num_sampled": len(result.sampled)})
