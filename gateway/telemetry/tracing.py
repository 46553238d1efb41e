"""The span of an HTTP request. It continues the client's trace and is the parent of the scheduler's spans.

Its attributes follow OpenTelemetry's semantic conventions for generative AI, and vLLM's names for durations
(gen_ai.latency.…). No attribute holds a prompt or generated text.
"""

from collections import defaultdict

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ErrorKind, GatewayError
from pagoda.wire.events import Moved
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest

UNTRACED = frozenset({"/metrics", "/health", "/ping", "/ready", "/version"})

_CHATS = ("/v1/chat/", "/v1/responses", "/v1/messages", "/api/chat")
"""Beginnings of the paths that answer conversations."""
_PROPAGATOR = TraceContextTextMapPropagator()


class RequestTrace:
    """The trace of one HTTP request, which may ask for several generations: one per prompt."""

    def __init__(self, span: Span, path: str = "") -> None:
        self._span = span
        self._operation = "chat" if path.startswith(_CHATS) else "text_completion"
        self._num_input_tokens = 0
        self._num_output_tokens = 0
        self._finish_reasons: list[str] = []
        self._longest_s: defaultdict[str, float] = defaultdict(float)

    def headers(self) -> dict[str, str]:
        """Return the W3C headers by which the scheduler continues the trace: traceparent and tracestate, if there are any."""
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, trace.set_span_in_context(self._span))
        return headers

    def trace_request(self, request: InferenceRequest) -> None:
        if not self._span.is_recording():
            return
        sampling = request.sampling
        self._num_input_tokens += len(request.prompt_token_ids)
        self._span.set_attributes(
            {
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": "pagoda",
                "gen_ai.request.id": request.request_id,
                "gen_ai.request.model": request.model,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.top_p": sampling.top_p,
                "gen_ai.request.choice.count": request.num_samples,
                "gen_ai.usage.input_tokens": self._num_input_tokens,
            }
        )
        if sampling.max_tokens is not None:
            self._span.set_attributes({"gen_ai.request.max_tokens": sampling.max_tokens})

    def trace_first_token(self, after_s: float) -> None:
        self._span.add_event("first token")
        self._span.set_attributes({"gen_ai.latency.time_to_first_token": after_s})

    def trace_move(self, event: Moved) -> None:
        workers = {"pagoda.from_worker_id": event.from_worker_id, "pagoda.to_worker_id": event.to_worker_id}
        self._span.add_event("moved", workers)

    def trace_finish(self, event: Finished, after_s: float) -> None:
        """Record a sample's end. Durations are the longest of all samples."""
        if not self._span.is_recording():
            return
        timings = event.timings
        self._num_output_tokens += event.usage.num_output_tokens
        self._finish_reasons.append(event.reason.value)
        for name, seconds in (
            ("e2e", after_s),
            ("time_in_queue", timings.queue_s),
            ("time_in_model_prefill", timings.prefill_s),
            ("time_in_model_decode", timings.decode_s),
            ("time_in_model_inference", timings.prefill_s + timings.decode_s),
        ):
            self._longest_s[f"gen_ai.latency.{name}"] = max(self._longest_s[f"gen_ai.latency.{name}"], seconds)
        self._span.set_attributes(
            {
                "gen_ai.usage.output_tokens": self._num_output_tokens,
                "gen_ai.response.finish_reasons": self._finish_reasons,
                **self._longest_s,
            }
        )

    def trace_failure(self, error: GatewayError) -> None:
        if error.kind is not ErrorKind.CLIENT_CLOSED:
            self._span.set_status(StatusCode.ERROR, error.message)
        self._span.set_attributes({"error.type": error.kind.name.lower()})


UNTRACED_REQUEST = RequestTrace(trace.INVALID_SPAN)


class TraceRequests:
    """ASGI middleware that traces each API request until the last byte of its stream, and sets `state.trace`."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = self._start(scope)
        scope["state"]["trace"] = RequestTrace(span, scope["path"])

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                _record_status(span, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except Exception as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            _record_route(span, scope)
            span.end()

    def _start(self, scope: Scope) -> Span:
        if scope["path"] in UNTRACED:
            return trace.INVALID_SPAN
        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "pagoda.http_request_id": scope["state"]["request_id"],
        }
        parent = _PROPAGATOR.extract(Headers(scope=scope))
        return self._tracer.start_span(scope["method"], parent, SpanKind.SERVER, attributes)


def _record_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR, f"status {status}")


def _record_route(span: Span, scope: Scope) -> None:
    """Name the span after its route, not after its path, so that clients cannot create span names at will."""
    if route := getattr(scope.get("route"), "path", ""):
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
