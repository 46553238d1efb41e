"""What gateways are told of models and load, as protobuf messages: a look at the loop that changes nothing."""

import math

from kvcache.breaker import BreakerState
from protos.v1 import inference_pb2
from scheduler.loop import SchedulerLoop
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import WorkerInfo

_BREAKER_STATES = {
    BreakerState.CLOSED: inference_pb2.BREAKER_STATE_CLOSED,
    BreakerState.OPEN: inference_pb2.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: inference_pb2.BREAKER_STATE_HALF_OPEN,
}


def models_to_proto(loop: SchedulerLoop) -> inference_pb2.ListModelsResponse:
    models = {name: _model_to_proto(loop.models.info_by_name(name)) for name in sorted(loop.models.names)}
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
        num_pending_tokens=_num_pending_tokens(loop),
        num_model_loads=counters.models.num_loads,
        num_failed_model_loads=counters.models.num_failed_loads,
        num_model_unloads=counters.models.num_unloads,
        model_load_s=counters.models.load_s,
        queues=[
            inference_pb2.QueueLoad(
                model=queue.model,
                tenant=queue.tenant,
                num_waiting=queue.num_waiting,
                oldest_s=queue.oldest_s,
                next_position=queue.next_position,
            )
            for queue in loop.queue_loads()
        ],
        queue_drain_per_s=loop.lifecycle.drain_rate.per_s,
        draining=loop.requests.is_draining,
        prefix_index=inference_pb2.PrefixIndexLoad(
            num_published_blocks=counters.index.num_published,
            num_dropped_blocks=counters.index.num_dropped,
            breaker_state=_BREAKER_STATES[counters.index.breaker_state],
        ),
    )


def _num_pending_tokens(loop: SchedulerLoop) -> int:
    """To be computed before every sequence has its next token; caches may spare those that wait some of it."""
    running = (sequence.num_pending for worker in loop.workers.values() for sequence in worker.running)
    return loop.waiting.num_tokens + sum(running)


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
