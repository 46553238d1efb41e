"""The span of an HTTP request: it continues the client's trace, is the parent of what the scheduler does, and says what was
asked and what came of it in OpenTelemetry's words for generative AI. Never any text.

Where vLLM has a name for a duration (gen_ai.latency.…), it is used.
"""

from collections import defaultdict

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ErrorKind, GatewayError
from pagoda.telemetry.tracing import SILENT_TRACER, SilentSpan, Span, SpanKind, TraceContext, Tracer
from pagoda.wire.events import Moved
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest

UNTRACED = frozenset({"/metrics", "/health", "/ping", "/ready", "/version"})


class RequestTrace:
    """What a request tells its span. One HTTP request may ask for several generations, one per prompt."""

    def __init__(self, span: Span, path: str = "") -> None:
        self.context = span.context
        self._span = span
        self._operation = "chat" if "chat" in path else "text_completion"
        self._num_input_tokens = 0
        self._num_output_tokens = 0
        self._finish_reasons: list[str] = []
        self._longest_s: defaultdict[str, float] = defaultdict(float)

    def trace_request(self, request: InferenceRequest) -> None:
        if not self._span.is_recording:
            return
        sampling = request.sampling
        self._num_input_tokens += len(request.prompt_token_ids)
        self._span.annotate(
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
            self._span.annotate({"gen_ai.request.max_tokens": sampling.max_tokens})

    def trace_first_token(self, after_s: float) -> None:
        self._span.event("first token")
        self._span.annotate({"gen_ai.latency.time_to_first_token": after_s})

    def trace_move(self, event: Moved) -> None:
        workers = {"pagoda.from_worker_id": event.from_worker_id, "pagoda.to_worker_id": event.to_worker_id}
        self._span.event("moved", workers)

    def trace_finish(self, event: Finished, after_s: float) -> None:
        """Trace a sample's end. Of several samples the longest times are kept."""
        if not self._span.is_recording:
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
        self._span.annotate(
            {
                "gen_ai.usage.output_tokens": self._num_output_tokens,
                "gen_ai.response.finish_reasons": self._finish_reasons,
                **self._longest_s,
            }
        )

    def trace_failure(self, error: GatewayError) -> None:
        if error.kind is not ErrorKind.CLIENT_CLOSED:
            self._span.fail(error.message)
        self._span.annotate({"error.type": error.kind.name.lower()})


UNTRACED_REQUEST = RequestTrace(SilentSpan(TraceContext()))


class TraceRequests:
    """A span around each request to the dialects, until the last byte of its stream; it travels on as `state.trace`."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = self._start(scope)
        scope["state"]["trace"] = RequestTrace(span, scope["path"])

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                _note_status(span, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            _note_route(span, scope)
            span.end()

    def _start(self, scope: Scope) -> Span:
        headers = Headers(scope=scope)
        parent = TraceContext(headers.get("traceparent", ""), headers.get("tracestate", ""))
        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "pagoda.http_request_id": scope["state"]["request_id"],
        }
        tracer = SILENT_TRACER if scope["path"] in UNTRACED else self._tracer
        return tracer.start(scope["method"], parent, SpanKind.SERVER, attributes)


def _note_status(span: Span, status: int) -> None:
    span.annotate({"http.response.status_code": status})
    if status >= 500:
        span.fail(f"status {status}")


def _note_route(span: Span, scope: Scope) -> None:
    """Name the span by the route's own path, so that made-up paths cannot make up names."""
    if route := getattr(scope.get("route"), "path", ""):
        span.rename(f"{scope['method']} {route}")
        span.annotate({"http.route": route})
