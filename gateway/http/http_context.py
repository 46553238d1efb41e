"""What a request inherits from the HTTP request it came with: what the middlewares have put there."""

from dataclasses import dataclass

from fastapi import Request

from gateway.telemetry.tracing import UNTRACED_REQUEST, RequestTrace
from pagoda.api_keys.keyring import NOBODY, Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPContext:
    request_id: str
    caller: Caller = NOBODY
    trace: RequestTrace = UNTRACED_REQUEST


def http_context(request: Request) -> HTTPContext:
    state = request.state
    return HTTPContext(request_id=state.request_id, caller=state.caller, trace=state.trace)
