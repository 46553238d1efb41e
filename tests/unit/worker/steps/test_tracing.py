"""Tests of the span of a step."""

from opentelemetry.trace import SpanKind

from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from tests.fakes.span_recorder import SpanRecorder, attributes_of, traceparent_of
from worker.steps.step_messages import step_from_proto
from worker.steps.tracing import describe_result, start_step_span

STEP = step_from_proto(worker_pb2.Step(step_id=4, decode_batch=worker_pb2.DecodeBatch(sequence_ids=[1], starts=[3])))


def test_a_step_without_a_traced_request_makes_no_span() -> None:
    recorder = SpanRecorder()
    span = start_step_span(recorder.tracer, STEP, "")
    describe_result(span, StepResult(step_id=4))
    assert not span.is_recording() and not recorder.spans


def test_a_step_is_a_child_of_the_sequence_that_the_scheduler_names() -> None:
    recorder = SpanRecorder()
    sequence = recorder.tracer.start_span("sequence")
    step = start_step_span(recorder.tracer, STEP, traceparent_of(sequence))
    describe_result(step, StepResult(step_id=4, step_us=7))
    (recorded,) = recorder.named("step")
    assert recorded.parent is not None and recorded.parent.span_id == sequence.get_span_context().span_id
    assert recorded.kind is SpanKind.CONSUMER
    assert attributes_of(recorded) == {
        "pagoda.step_id": 4,
        "pagoda.num_sequences": 1,
        "pagoda.num_tokens": 1,
        "pagoda.step_us": 7,
        "pagoda.num_sampled": 0,
    }
