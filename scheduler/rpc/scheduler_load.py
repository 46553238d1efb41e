"""The reports of models and load for gateways, workers and health checks, read from the loop."""

import math
from collections import Counter

from kvcache.breaker import BreakerState
from pagoda.wire.load import PrefixIndexLoad, SchedulerLoad, WorkerLoad
from pagoda.wire.model_info import ModelInfo
from protos.v1 import inference_pb2
from scheduler.loop import SchedulerLoop
from scheduler.steps.worker_state import AttachedWorker

_BREAKER_STATES = {
    BreakerState.CLOSED: inference_pb2.BREAKER_STATE_CLOSED,
    BreakerState.OPEN: inference_pb2.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: inference_pb2.BREAKER_STATE_HALF_OPEN,
}


def served_models(loop: SchedulerLoop) -> list[ModelInfo]:
    num_workers = Counter(worker.info.model for worker in loop.workers.values())
    return [_model_info(loop, name, num_workers[name]) for name in sorted(loop.models.names)]


def _model_info(loop: SchedulerLoop, name: str, num_workers: int) -> ModelInfo:
    info, expires_in_s = loop.models.info_by_name(name), loop.keep_alive.expires_in_s(name)
    return ModelInfo(
        name=info.model,
        digest=info.model_digest,
        max_model_len=info.limits.max_model_len,
        num_workers=num_workers,
        num_unloaded_workers=loop.models.num_able(name),
        device=info.device,
        expires_in_s=expires_in_s if num_workers and expires_in_s < math.inf else None,
        page_size=info.limits.page_size,
        loading=loop.loading.stores.progress_of(name),
    )


def scheduler_load(loop: SchedulerLoop) -> SchedulerLoad:
    counters = loop.counters
    return SchedulerLoad(
        workers=tuple(map(_worker_load, loop.workers.values())),
        queues=tuple(loop.queue_loads()),
        prefix_index=PrefixIndexLoad(
            num_published_blocks=counters.index.num_published,
            num_dropped_blocks=counters.index.num_dropped,
            breaker_state=_BREAKER_STATES[counters.index.breaker_state],
        ),
        is_draining=loop.requests.is_draining,
        queue_drain_per_s=loop.lifecycle.drain_rate.per_s,
        num_waiting=len(loop.waiting),
        num_running=loop.num_running,
        num_pending_tokens=_num_pending_tokens(loop),
        num_steps=counters.num_steps,
        num_step_tokens=counters.num_step_tokens,
        num_preemptions=counters.num_preemptions,
        num_prefix_queries=counters.num_prefix_queries,
        num_prefix_hits=counters.num_prefix_hits,
        num_model_loads=counters.models.num_loads,
        num_failed_model_loads=counters.models.num_failed_loads,
        num_model_unloads=counters.models.num_unloads,
        model_load_s=counters.models.load_s,
    )


def _num_pending_tokens(loop: SchedulerLoop) -> int:
    """Return the number of tokens to compute until every sequence has its next one. Waiting sequences may find some in caches."""
    running = (sequence.num_pending for worker in loop.workers.values() for sequence in worker.running)
    return loop.waiting.num_tokens + sum(running)


def _worker_load(worker: AttachedWorker) -> WorkerLoad:
    info, pool = worker.info, worker.pool
    return WorkerLoad(
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
