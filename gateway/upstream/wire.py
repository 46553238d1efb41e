"""Between the messages of protos/v1/inference.proto and the gateway's own data, one function for each message."""

from collections.abc import Iterator

from gateway.upstream.inference import (
    Event,
    Finished,
    FinishReason,
    InferenceRequest,
    Load,
    ModelInfo,
    Moved,
    PromptLogprobs,
    QueueLoad,
    Started,
    Timings,
    Tokens,
    Usage,
    WorkerLoad,
)
from pagoda.wire.logprobs import TokenLogprobs
from protos.v1 import inference_pb2, types_pb2

_FINISH_REASONS = {
    types_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    types_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    types_pb2.FINISH_REASON_ABORT: FinishReason.ABORT,
}


def request_to_proto(request: InferenceRequest) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(
        request_id=request.request_id,
        model=request.model,
        prompt_token_ids=request.prompt_token_ids,
        sampling=request.sampling.to_proto(),
        num_samples=request.num_samples,
        timeout_ms=0 if request.timeout_s is None else max(1, round(request.timeout_s * 1000)),
        tenant=request.tenant,
        priority=request.priority,
        cache_salt=request.cache_salt,
        traceparent=request.traceparent,
        tracestate=request.tracestate,
        group_id=request.group_id,
        keep_alive_s=request.keep_alive_s,
        keep_alive_only_prolongs=not request.may_unload,
        resume=[
            inference_pb2.ResumedSample(
                sample_index=sample.sample_index,
                generated_token_ids=sample.generated_token_ids,
                next_sequence_number=len(sample.generated_token_ids),
                finished=sample.is_finished,
            )
            for sample in request.resumed
        ],
    )


def events_from_proto(message: inference_pb2.GenerateResponse) -> Iterator[tuple[str, Event]]:
    """Each event with the request it belongs to; none for a kind that this gateway does not know yet."""
    match message.WhichOneof("event"):
        case "token_batch":
            yield from _token_batch(message.token_batch)
        case "tokens":
            yield message.tokens.request_id, _tokens(message.tokens)
        case "prompt_logprobs":
            yield message.prompt_logprobs.request_id, _prompt_logprobs(message.prompt_logprobs)
        case "started":
            yield message.started.request_id, _started(message.started)
        case "finished":
            yield message.finished.request_id, _finished(message.finished)
        case "moved":
            yield message.moved.request_id, _moved(message.moved)


def _token_batch(message: inference_pb2.TokenBatch) -> Iterator[tuple[str, Event]]:
    columns = (message.request_ids, message.sample_indexes, message.token_ids, message.sequence_numbers)
    for request_id, sample_index, token_id, sequence_number in zip(*columns, strict=True):
        yield (
            request_id,
            Tokens(sample_index=sample_index, token_ids=(token_id,), logprobs=(), sequence_number=sequence_number),
        )


def _tokens(message: inference_pb2.Tokens) -> Tokens:
    return Tokens(
        sample_index=message.sample_index,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(map(TokenLogprobs.from_proto, message.logprobs)),
        sequence_number=message.sequence_number,
    )


def _prompt_logprobs(message: inference_pb2.PromptLogprobs) -> PromptLogprobs:
    return PromptLogprobs(
        sample_index=message.sample_index,
        start=message.start,
        logprobs=tuple(map(TokenLogprobs.from_proto, message.logprobs)),
    )


def _started(message: inference_pb2.Started) -> Started:
    return Started(
        sample_index=message.sample_index,
        worker_id=message.worker_id,
        num_cached_tokens=message.num_cached_tokens,
        queue_s=message.queue_s,
    )


def _moved(message: inference_pb2.Moved) -> Moved:
    return Moved(
        sample_index=message.sample_index,
        from_worker_id=message.from_worker_id,
        to_worker_id=message.to_worker_id,
    )


def _finished(message: inference_pb2.Finished) -> Finished:
    return Finished(
        sample_index=message.sample_index,
        reason=_FINISH_REASONS[message.reason],
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        usage=Usage(
            num_prompt_tokens=message.usage.num_prompt_tokens,
            num_cached_tokens=message.usage.num_cached_tokens,
            num_output_tokens=message.usage.num_output_tokens,
        ),
        timings=Timings(
            queue_s=message.timings.queue_s, prefill_s=message.timings.prefill_s, decode_s=message.timings.decode_s
        ),
    )


def model_from_proto(message: inference_pb2.ModelInfo) -> ModelInfo:
    return ModelInfo(
        name=message.name,
        digest=message.digest,
        max_model_len=message.max_model_len,
        num_workers=message.num_workers,
        num_unloaded_workers=message.num_unloaded_workers,
        device=message.device,
        expires_in_s=message.expires_in_s if message.HasField("expires_in_s") else None,
        page_size=message.page_size,
    )


def load_from_proto(message: inference_pb2.GetLoadResponse) -> Load:
    return Load(
        workers=tuple(
            WorkerLoad(
                worker_id=worker.worker_id,
                num_pages_free=worker.num_pages_free,
                num_pages_cached=worker.num_pages_cached,
                num_pages_used=worker.num_pages_used,
            )
            for worker in message.workers
        ),
        queues=tuple(
            QueueLoad(
                model=queue.model,
                tenant=queue.tenant,
                num_waiting=queue.num_waiting,
                oldest_s=queue.oldest_s,
                next_position=queue.next_position,
            )
            for queue in message.queues
        ),
        queue_drain_per_s=message.queue_drain_per_s,
        num_waiting=message.num_waiting,
        num_running=message.num_running,
        num_pending_tokens=message.num_pending_tokens,
        num_preemptions=message.num_preemptions,
        num_prefix_queries=message.num_prefix_queries,
        num_prefix_hits=message.num_prefix_hits,
        num_model_loads=message.num_model_loads,
        num_failed_model_loads=message.num_failed_model_loads,
        num_model_unloads=message.num_model_unloads,
        model_load_s=message.model_load_s,
        num_index_published=message.prefix_index.num_published_blocks,
        num_index_dropped=message.prefix_index.num_dropped_blocks,
        is_index_reachable=message.prefix_index.breaker_state == inference_pb2.BREAKER_STATE_CLOSED,
    )
