"""Protobuf messages ↔ the scheduler's dataclasses. Pure; the only file of the scheduler that knows both."""

import math
from collections.abc import Iterable
from itertools import groupby

from google.rpc import code_pb2

from kvcache.block_hash import BlockHash
from kvcache.breaker import BreakerState
from kvcache.page_pool import PageId
from pagoda.durations import LONGEST_S
from pagoda.logprobs import TokenLogprobs
from pagoda.sampling import SamplingParams
from protos.v1 import inference_pb2, types_pb2, worker_pb2
from scheduler.errors import InvalidRequestError, RequestError, ShuttingDownError, WorkerProtocolError
from scheduler.events import Event, Failed, Finished, Moved, PromptLogprobs, Started, Tokens
from scheduler.loop import SchedulerLoop
from scheduler.request import InferenceRequest
from scheduler.result import SampledTokens, ScoredTokens, StepResult
from scheduler.sequence import FinishReason
from scheduler.step_plan import PlannedSequence, StepPlan
from scheduler.worker_info import LoadableModel, LoadableModels, ModelLimits, WorkerInfo
from scheduler.worker_state import AttachedWorker

_FINISH_REASONS = {
    FinishReason.STOP: types_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: types_pb2.FINISH_REASON_LENGTH,
    FinishReason.ABORT: types_pb2.FINISH_REASON_ABORT,
}

_BREAKER_STATES = {
    BreakerState.CLOSED: inference_pb2.BREAKER_STATE_CLOSED,
    BreakerState.OPEN: inference_pb2.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: inference_pb2.BREAKER_STATE_HALF_OPEN,
}


# ---- requests


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
        keep_alive_s=keep_alive_from_proto(message),
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


# ---- events


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


# ---- models and load


def models_to_proto(loop: SchedulerLoop) -> inference_pb2.ListModelsResponse:
    models = {name: _model_to_proto(loop.models.info(name)) for name in sorted(loop.models.names)}
    for worker in loop.workers.values():
        models[worker.info.model].num_workers += 1
    for name, model in models.items():
        model.num_unloaded_workers = loop.models.num_able(name)
        expires_in_s = loop.keep_alive.expires_in_s(name)
        if model.num_workers and expires_in_s < math.inf:
            model.expires_in_s = expires_in_s
    return inference_pb2.ListModelsResponse(models=models.values())


def _model_to_proto(info: WorkerInfo) -> inference_pb2.ModelInfo:
    return inference_pb2.ModelInfo(
        name=info.model,
        digest=info.model_digest,
        max_model_len=info.limits.max_model_len,
        device=info.device,
        numerics_id=info.numerics_id,
        page_size=info.limits.page_size,
    )


def load_to_proto(loop: SchedulerLoop) -> inference_pb2.GetLoadResponse:
    counters = loop.counters
    return inference_pb2.GetLoadResponse(
        workers=[_worker_load(worker) for worker in loop.workers.values()],
        num_waiting=len(loop.waiting),
        num_running=loop.num_running,
        num_preemptions=counters.num_preemptions,
        num_prefix_queries=counters.num_prefix_queries,
        num_prefix_hits=counters.num_prefix_hits,
        num_steps=counters.num_steps,
        num_step_tokens=counters.num_step_tokens,
        num_pending_tokens=loop.num_pending_tokens,
        num_model_loads=counters.models.num_loads,
        num_failed_model_loads=counters.models.num_failed_loads,
        num_model_unloads=counters.models.num_unloads,
        model_load_s=counters.models.load_s,
        queues=[
            inference_pb2.QueueLoad(
                model=queue.model, tenant=queue.tenant, num_waiting=queue.num_waiting, oldest_s=queue.oldest_s
            )
            for queue in loop.queue_loads()
        ],
        queue_drain_per_s=loop.requests.drain_rate.per_s,
        draining=loop.requests.is_draining,
        prefix_index=inference_pb2.PrefixIndexLoad(
            num_published_blocks=counters.index.num_published,
            num_dropped_blocks=counters.index.num_dropped,
            breaker_state=_BREAKER_STATES[counters.index.breaker_state],
        ),
    )


def _worker_load(worker: AttachedWorker) -> inference_pb2.WorkerLoad:
    info, pool = worker.info, worker.pool
    return inference_pb2.WorkerLoad(
        worker_id=info.worker_id,
        model=info.model,
        device=info.device,
        numerics_id=info.numerics_id,
        num_running=len(worker.running),
        page_size=info.limits.page_size,
        num_pages_free=pool.num_free,
        num_pages_cached=pool.num_cached,
        num_pages_used=pool.num_used,
        weights_bytes=info.weights_bytes,
        kv_bytes=info.kv_bytes,
    )


# ---- workers


def worker_info_from_proto(hello: worker_pb2.Hello) -> WorkerInfo:
    model = hello.model
    return WorkerInfo(
        worker_id=hello.worker_id,
        epoch=hello.epoch,
        model=model.name,
        model_digest=model.digest,
        device=hello.device,
        numerics_id=model.numerics_id,
        weights_bytes=model.weights_bytes,
        kv_bytes=model.kv_bytes,
        limits=ModelLimits(
            page_size=model.page_size,
            num_pages=model.num_pages,
            max_model_len=model.max_model_len,
            max_step_tokens=model.max_step_tokens,
            max_step_sequences=model.max_step_sequences,
            vocab_size=model.vocab_size,
        ),
    )


def store_from_proto(hello: worker_pb2.Hello, store: worker_pb2.LoadableModels) -> LoadableModels:
    return LoadableModels(
        models={model.name: _loadable_from_proto(hello, model) for model in store.models},
        host_id=store.host_id,
        available_bytes=store.available_bytes if store.HasField("available_bytes") else None,
        home_model=store.home_model or None,
    )


def _loadable_from_proto(hello: worker_pb2.Hello, model: worker_pb2.LoadableModel) -> LoadableModel:
    info = WorkerInfo(
        worker_id=hello.worker_id,
        epoch=hello.epoch,
        model=model.name,
        model_digest=model.digest,
        device=hello.device,
        numerics_id="",
        weights_bytes=0,
        kv_bytes=0,
        limits=ModelLimits(
            page_size=model.page_size,
            # Requests are checked against what one sequence of full length takes; the rest is found out when it is loaded.
            num_pages=-(-model.max_model_len // model.page_size),
            max_model_len=model.max_model_len,
            max_step_tokens=0,
            max_step_sequences=0,
            vocab_size=model.vocab_size,
        ),
    )
    return LoadableModel(info=info, needed_bytes=model.needed_bytes)


def held_blocks_from_proto(message: worker_pb2.HeldBlocks) -> list[tuple[PageId, BlockHash]]:
    return [(PageId(held.page_id), BlockHash(held.block_hash)) for held in message.blocks]


def plan_to_proto(plan: StepPlan, session_id: int) -> worker_pb2.Step:
    decoding = [planned for planned in plan.scheduled if planned.only_decodes]
    others = [planned for planned in plan.scheduled if not planned.only_decodes]
    return worker_pb2.Step(
        session_id=session_id,
        step_id=plan.step_id,
        finished_sequence_ids=plan.finished_sequence_ids,
        new_sequences=[
            worker_pb2.NewSequence(
                sequence_id=sequence.sequence_id,
                attempt=sequence.attempt,
                token_ids=sequence.token_ids,
                num_prompt_tokens=sequence.num_prompt_tokens,
                sampling=sequence.sampling.to_proto(),
                sample_index=sequence.sample_index,
            )
            for sequence in plan.new_sequences
        ],
        scheduled=[_scheduled_to_proto(planned) for planned in others],
        decode_batch=worker_pb2.DecodeBatch(
            sequence_ids=[planned.sequence.sequence_id for planned in decoding],
            starts=[planned.start for planned in decoding],
            num_steps=[planned.num_steps for planned in decoding] if plan.max_steps > 1 else (),
        ),
        sealed_blocks=[worker_pb2.PageBlock(page_id=page, block_hash=block) for page, block in plan.sealed_blocks],
        max_steps=plan.max_steps,
        traceparent=plan.traceparent,
    )


def _scheduled_to_proto(planned: PlannedSequence) -> worker_pb2.ScheduledSequence:
    return worker_pb2.ScheduledSequence(
        sequence_id=planned.sequence.sequence_id,
        start=planned.start,
        num_tokens=planned.num_tokens,
        new_page_ids=planned.new_pages,
        sample=planned.sample,
        num_steps=planned.num_steps,
    )


def result_from_proto(message: worker_pb2.StepResult) -> StepResult:
    """Raises WorkerProtocolError for a batch whose columns are not of one length."""
    return StepResult(
        step_id=message.step_id,
        sampled=(*map(_sampled_from_proto, message.sampled), *_sampled_batch(message.sampled_batch)),
        scored=tuple(
            ScoredTokens(
                sequence_id=scored.sequence_id,
                attempt=scored.attempt,
                start=scored.start,
                logprobs=tuple(map(TokenLogprobs.from_proto, scored.logprobs)),
            )
            for scored in message.scored
        ),
        next_is_last=message.next_is_last,
    )


def _sampled_from_proto(sampled: worker_pb2.SampledTokens) -> SampledTokens:
    return SampledTokens(
        sequence_id=sampled.sequence_id,
        attempt=sampled.attempt,
        token_ids=tuple(sampled.token_ids),
        logprobs=tuple(map(TokenLogprobs.from_proto, sampled.logprobs)),
        stopped=sampled.stopped,
        stop_token_id=sampled.stop_token_id if sampled.HasField("stop_token_id") else None,
    )


def _sampled_batch(message: worker_pb2.SampledBatch) -> list[SampledTokens]:
    columns = (message.sequence_ids, message.attempts, message.token_ids)
    if len(set(map(len, columns))) > 1:
        raise WorkerProtocolError(
            f"a sampled_batch has columns of {', '.join(str(len(each)) for each in columns)} entries"
        )
    return [
        SampledTokens(sequence_id, attempt, (token_id,))
        for sequence_id, attempt, token_id in zip(*columns, strict=True)
    ]
