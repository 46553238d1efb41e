"""What clients ask for and are told, between protobuf messages and the scheduler's own data and errors. Pure."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from google.rpc import code_pb2

from pagoda.durations import LONGEST_S
from pagoda.wire.events import Event, events_to_proto
from pagoda.wire.inference_request import InferenceRequest
from protos.v1 import inference_pb2
from scheduler.errors import InvalidRequestError, RequestError, ShuttingDownError
from scheduler.queue.events import ClientEvent, Failed
from scheduler.queue.new_sequences import MAX_SAMPLES

# What is only carried along or hashed. The longest that HTTP lets through is shorter.
MAX_NAME_CHARS = 1024
MAX_TEXT_CHARS = 64 * 1024


def check_bounds(message: inference_pb2.GenerateRequest) -> None:
    """Look at what can be said of the message before anything is made of it. Raises InvalidRequestError."""
    for field in ("request_id", "model", "tenant", "group_id", "traceparent"):
        _check_length(message, field, MAX_NAME_CHARS)
    for field in ("cache_salt", "tracestate"):
        _check_length(message, field, MAX_TEXT_CHARS)
    if len(message.resume) > MAX_SAMPLES:
        raise InvalidRequestError(f"resume may name at most {MAX_SAMPLES} samples (got {len(message.resume)})")
    if len({sample.sample_index for sample in message.resume}) < len(message.resume):
        raise InvalidRequestError("resume names a sample twice")


def _check_length(message: inference_pb2.GenerateRequest, field: str, most: int) -> None:
    if (length := len(getattr(message, field))) > most:
        raise InvalidRequestError(f"{field} may have at most {most} characters (got {length})")


def request_from_proto(message: inference_pb2.GenerateRequest) -> InferenceRequest:
    """Raises InvalidRequestError for fields that the contract reserves but this version cannot honour."""
    _refuse_reserved(message)
    request = InferenceRequest.from_proto(message)
    if not (message.sampling.HasField("seed") or request.sampling.is_greedy):
        raise InvalidRequestError("sampling.seed is required when temperature is not 0")
    if request.keep_alive_s is None:
        return request
    return replace(request, keep_alive_s=bounded_keep_alive(request.keep_alive_s))


def _refuse_reserved(message: inference_pb2.GenerateRequest) -> None:
    constraint = message.sampling.WhichOneof("constraint")
    if constraint is not None:
        raise InvalidRequestError(f"sampling.{constraint} is not supported yet")
    if message.adapter:
        raise InvalidRequestError("adapter is not supported yet")


def bounded_keep_alive(keep_alive_s: float) -> float:
    """Return infinity for what is as good as for ever. Raises InvalidRequestError for what is no duration."""
    if not keep_alive_s >= 0:
        raise InvalidRequestError(f"keep_alive_s must be 0 or more, infinite for ever (got {keep_alive_s:g})")
    return keep_alive_s if keep_alive_s < LONGEST_S else math.inf


def session_response(events: Sequence[ClientEvent]) -> inference_pb2.SessionResponse:
    """Keep the order of the events; failures stand beside them, since nothing follows one of the same request."""
    failures = [event for event in events if isinstance(event, Failed)]
    if not failures:
        return inference_pb2.SessionResponse(events=events_to_proto(cast("Sequence[Event]", events)))
    told = [event for event in events if not isinstance(event, Failed)]
    errors = [error_to_proto(failure.request_id, failure.error) for failure in failures]
    return inference_pb2.SessionResponse(events=events_to_proto(told), errors=errors)


def error_to_proto(request_id: str, error: RequestError) -> inference_pb2.RequestError:
    return inference_pb2.RequestError(
        request_id=request_id,
        code=code_pb2.Code.Value(error.status.name),
        message=error.message,
        retry_after_s=error.retry_after_s,
        is_shutting_down=isinstance(error, ShuttingDownError),
    )
