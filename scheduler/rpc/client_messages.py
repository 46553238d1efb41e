"""The conversion of clients' messages: protobuf requests to the scheduler's data, and its events and errors to protobuf."""

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
from scheduler.rpc.constraint_bounds import constraint_problem

# Limits of texts that are only passed on or hashed. The gateway's HTTP limits are lower.
MAX_NAME_CHARS = 1024
MAX_TEXT_CHARS = 64 * 1024


def check_bounds(message: inference_pb2.GenerateRequest) -> None:
    """Check the sizes in a message before anything is copied. Raises InvalidRequestError."""
    for field in ("request_id", "model", "tenant", "group_id", "traceparent"):
        _check_length(message, field, MAX_NAME_CHARS)
    for field in ("cache_salt", "tracestate"):
        _check_length(message, field, MAX_TEXT_CHARS)
    if len(message.resume) > MAX_SAMPLES:
        raise InvalidRequestError(f"resume may name at most {MAX_SAMPLES} samples (got {len(message.resume)})")
    if len({sample.sample_index for sample in message.resume}) < len(message.resume):
        raise InvalidRequestError("resume names a sample_index twice; each sample may have one entry")
    if message.sampling.HasField("constraint") and (problem := constraint_problem(message.sampling.constraint)):
        raise InvalidRequestError(f"sampling.constraint.{problem}")


def _check_length(message: inference_pb2.GenerateRequest, field: str, most: int) -> None:
    if (length := len(getattr(message, field))) > most:
        raise InvalidRequestError(f"{field} may have at most {most} characters (got {length})")


def request_from_proto(message: inference_pb2.GenerateRequest) -> InferenceRequest:
    """Convert a request. Raises InvalidRequestError for reserved fields that this version does not support."""
    _refuse_reserved(message)
    request = InferenceRequest.from_proto(message)
    if not (message.sampling.HasField("seed") or request.sampling.is_greedy):
        raise InvalidRequestError("sampling.seed is required unless sampling.temperature is 0")
    if request.keep_alive_s is None:
        return request
    return replace(request, keep_alive_s=bounded_keep_alive(request.keep_alive_s))


def _refuse_reserved(message: inference_pb2.GenerateRequest) -> None:
    if message.adapter:
        raise InvalidRequestError("adapter is not supported yet")


def bounded_keep_alive(keep_alive_s: float) -> float:
    """Return a keep-alive, or infinity if it is very long. Raises InvalidRequestError if it is not a duration."""
    if not keep_alive_s >= 0:
        raise InvalidRequestError(f"keep_alive_s must be 0 or more; infinity means forever (got {keep_alive_s:g})")
    return keep_alive_s if keep_alive_s < LONGEST_S else math.inf


def session_response(events: Sequence[ClientEvent]) -> inference_pb2.SessionResponse:
    """Convert events in order. Failures are in a list of their own, since no event of the same request follows them."""
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
