"""The spans of a sequence: one from its arrival to its end, with a child for each stage.

A preempted sequence goes through its stages again. Nothing is kept of a sequence whose trace is not sampled.
"""

from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from scheduler.errors import RequestError
from scheduler.listeners import Interruption, SequenceListener
from scheduler.steps.sequence import Sequence

Attributes = dict[str, str | int | float]

_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(slots=True)
class _Traced:
    span: Span
    context: Context
    """The context with `span` in it: the parent of the stages."""
    stage: Span
    is_decoding: bool = False


class SequenceTracing(SequenceListener):
    """A sequence listener that records spans."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._traced: dict[int, _Traced] = {}

    def sequence_queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        parent = _PROPAGATOR.extract({"traceparent": request.traceparent, "tracestate": request.tracestate})
        span = self._tracer.start_span("sequence", parent, SpanKind.SERVER)
        if not span.is_recording():
            return ""
        span.set_attributes(_attributes(sequence, request))
        span.add_event("queued", {"pagoda.queue_position": place, "pagoda.num_waiting": num_waiting})
        context = trace.set_span_in_context(span)
        self._traced[sequence.sequence_id] = _Traced(span, context, self._tracer.start_span("queue", context))
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, context)
        return headers["traceparent"]

    def model_loading(self, sequence: Sequence, worker_id: str) -> None:
        if traced := self._traced.get(sequence.sequence_id):
            traced.span.add_event("model loading", {"pagoda.model": sequence.model, "pagoda.worker_id": worker_id})

    def model_loaded(self, sequence: Sequence, worker_id: str, load_s: float) -> None:
        if traced := self._traced.get(sequence.sequence_id):
            loaded: Attributes = {"pagoda.model": sequence.model, "pagoda.worker_id": worker_id}
            traced.span.add_event("model loaded", {**loaded, "pagoda.load_s": load_s})

    def sequence_admitted(self, sequence: Sequence, num_cached_tokens: int) -> None:
        worker_id, before = sequence.computation.worker_id or "", sequence.history.admitted_before or ""
        where: Attributes = {"pagoda.worker_id": worker_id, "pagoda.num_cached_tokens": num_cached_tokens}
        if traced := self._traced.get(sequence.sequence_id):
            traced.span.set_attributes(where)
            if sequence.has_moved:
                traced.span.add_event("moved", {"pagoda.from_worker_id": before, "pagoda.to_worker_id": worker_id})
            self._enter(sequence, "prefill", where)

    def sequence_sampled(self, sequence: Sequence) -> None:
        traced = self._traced.get(sequence.sequence_id)
        if traced and not traced.is_decoding:
            self._enter(sequence, "decode")

    def sequence_interrupted(self, sequence: Sequence, why: Interruption) -> None:
        if traced := self._traced.get(sequence.sequence_id):
            traced.span.add_event(why.value, {"pagoda.worker_id": sequence.computation.worker_id or ""})
            self._enter(sequence, "queue")

    def sequence_finished(self, sequence: Sequence, reason: FinishReason) -> None:
        self._end(sequence, {"pagoda.finish_reason": reason.value})

    def sequence_failed(self, sequence: Sequence, error: RequestError) -> None:
        if traced := self._traced.get(sequence.sequence_id):
            traced.span.set_status(StatusCode.ERROR, error.message)
        self._end(sequence, {"error.type": error.status.name})

    def _enter(self, sequence: Sequence, stage: str, attributes: Attributes | None = None) -> None:
        if traced := self._traced.get(sequence.sequence_id):
            traced.stage.end()
            traced.stage = self._tracer.start_span(stage, traced.context, attributes=attributes)
            traced.is_decoding = stage == "decode"

    def _end(self, sequence: Sequence, outcome: Attributes) -> None:
        if traced := self._traced.pop(sequence.sequence_id, None):
            traced.stage.end()
            traced.span.set_attributes(
                {
                    **outcome,
                    "pagoda.num_output_tokens": sequence.num_output_tokens,
                    "pagoda.num_preemptions": sequence.history.num_preemptions,
                }
            )
            traced.span.end()


def _attributes(sequence: Sequence, request: InferenceRequest) -> Attributes:
    return {
        "pagoda.request_id": request.request_id,
        "pagoda.sample_index": sequence.sample_index,
        "pagoda.model": sequence.model,
        "pagoda.tenant": request.tenant,
        "pagoda.priority": request.priority,
        "pagoda.num_prompt_tokens": sequence.num_prompt_tokens,
    }
