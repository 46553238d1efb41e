"""What clients ask for and are told, between protobuf messages and the scheduler's dataclasses. Pure."""

import math
from collections.abc import Iterable
from itertools import groupby

from google.rpc import code_pb2

from pagoda.durations import LONGEST_S
from pagoda.wire.sampling import SamplingParams
from protos.v1 import inference_pb2, types_pb2
from scheduler.errors import InvalidRequestError, RequestError, ShuttingDownError
from scheduler.queue.events import Event, Failed, Finished, Moved, PromptLogprobs, Started, Tokens
from scheduler.queue.request import MAX_SAMPLES, InferenceRequest
from scheduler.steps.sequence import FinishReason

_FINISH_REASONS = {
    FinishReason.STOP: types_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: types_pb2.FINISH_REASON_LENGTH,
    FinishReason.ABORT: types_pb2.FINISH_REASON_ABORT,
}


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
    return InferenceRequest(
        request_id=message.request_id,
        model=message.model,
        prompt_token_ids=tuple(message.prompt_token_ids),
        sampling=SamplingParams.from_proto(message.sampling),
        num_samples=message.num_samples or 1,
        tenant=message.tenant,
        priority=message.priority,
        timeout_s=message.timeout_ms / 1000 if message.timeout_ms else None,
        cache_salt=message.cache_salt,
        resumed={sample.sample_index: tuple(sample.generated_token_ids) for sample in message.resume},
        finished=frozenset(sample.sample_index for sample in message.resume if sample.finished),
        traceparent=message.traceparent,
        tracestate=message.tracestate,
        group_id=message.group_id,
        keep_alive_s=keep_alive_from_proto(message),
        keep_alive_only_prolongs=message.keep_alive_only_prolongs,
    )


def keep_alive_from_proto(message: inference_pb2.GenerateRequest | inference_pb2.KeepLoadedRequest) -> float | None:
    """Raises InvalidRequestError for what is no duration."""
    if not message.HasField("keep_alive_s"):
        return None
    if not message.keep_alive_s >= 0:
        raise InvalidRequestError(f"keep_alive_s must be 0 or more, infinite for ever (got {message.keep_alive_s:g})")
    return message.keep_alive_s if message.keep_alive_s < LONGEST_S else math.inf


def _refuse_reserved(message: inference_pb2.GenerateRequest) -> None:
    constraint = message.sampling.WhichOneof("constraint")
    if constraint is not None:
        raise InvalidRequestError(f"sampling.{constraint} is not supported yet")
    if message.adapter:
        raise InvalidRequestError("adapter is not supported yet")
    if not message.sampling.HasField("seed") and SamplingParams.from_proto(message.sampling).temperature != 0.0:
        raise InvalidRequestError("sampling.seed is required when temperature is not 0")


def events_to_proto(events: Iterable[Event]) -> inference_pb2.SessionResponse:
    """In order, and what is alike and side by side in one batch."""
    response = inference_pb2.SessionResponse()
    for is_single_token, group in groupby(events, _is_single_token):
        if is_single_token:
            response.events.append(inference_pb2.GenerateResponse(token_batch=_token_batch(group)))
            continue
        for event in group:
            if isinstance(event, Failed):
                response.errors.append(error_to_proto(event.request_id, event.error))
            else:
                response.events.append(event_to_proto(event))
    return response


def _is_single_token(event: Event) -> bool:
    return type(event) is Tokens and len(event.token_ids) == 1 and not event.logprobs


def _token_batch(events: Iterable[Event]) -> inference_pb2.TokenBatch:
    request_ids, sample_indexes, token_ids, _, sequence_numbers = zip(*events, strict=True)
    return inference_pb2.TokenBatch(
        request_ids=request_ids,
        sample_indexes=sample_indexes,
        token_ids=[token_id for (token_id,) in token_ids],
        sequence_numbers=sequence_numbers,
    )


def event_to_proto(event: Started | PromptLogprobs | Tokens | Moved | Finished) -> inference_pb2.GenerateResponse:
    match event:
        case Tokens():
            return inference_pb2.GenerateResponse(tokens=_tokens_to_proto(event))
        case Started():
            return inference_pb2.GenerateResponse(
                started=inference_pb2.Started(
                    request_id=event.request_id,
                    sample_index=event.sample_index,
                    worker_id=event.worker_id,
                    num_cached_tokens=event.num_cached_tokens,
                    queue_s=event.queue_s,
                )
            )
        case PromptLogprobs():
            return inference_pb2.GenerateResponse(
                prompt_logprobs=inference_pb2.PromptLogprobs(
                    request_id=event.request_id,
                    sample_index=event.sample_index,
                    start=event.start,
                    logprobs=[each.to_proto() for each in event.logprobs],
                )
            )
        case Moved():
            return inference_pb2.GenerateResponse(
                moved=inference_pb2.Moved(
                    request_id=event.request_id,
                    sample_index=event.sample_index,
                    from_worker_id=event.from_worker_id,
                    to_worker_id=event.to_worker_id,
                )
            )
        case Finished():
            return inference_pb2.GenerateResponse(finished=_finished_to_proto(event))


def error_to_proto(request_id: str, error: RequestError) -> inference_pb2.RequestError:
    return inference_pb2.RequestError(
        request_id=request_id,
        code=code_pb2.Code.Value(error.status.name),
        message=error.message,
        retry_after_s=error.retry_after_s,
        is_shutting_down=isinstance(error, ShuttingDownError),
    )


def _tokens_to_proto(event: Tokens) -> inference_pb2.Tokens:
    return inference_pb2.Tokens(
        request_id=event.request_id,
        sample_index=event.sample_index,
        token_ids=event.token_ids,
        logprobs=[each.to_proto() for each in event.logprobs],
        sequence_number=event.sequence_number,
    )


def _finished_to_proto(event: Finished) -> inference_pb2.Finished:
    return inference_pb2.Finished(
        request_id=event.request_id,
        sample_index=event.sample_index,
        reason=_FINISH_REASONS[event.reason],
        stop_token_id=event.stop_token_id,
        usage=types_pb2.Usage(
            num_prompt_tokens=event.num_prompt_tokens,
            num_cached_tokens=event.num_cached_tokens,
            num_output_tokens=event.num_output_tokens,
        ),
        timings=types_pb2.Timings(
            queue_s=event.queue_s,
            prefill_s=event.prefill_s,
            decode_s=event.decode_s,
            num_preemptions=event.num_preemptions,
        ),
    )
