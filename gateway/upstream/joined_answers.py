"""What several schedulers say of themselves, as if they were one. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gateway.upstream.inference import Load, ModelInfo, QueueLoad


def join_models(answers: Iterable[Iterable[ModelInfo]]) -> tuple[ModelInfo, ...]:
    """Each model once, whoever serves it."""
    models: dict[str, ModelInfo] = {}
    for answer in answers:
        for model in answer:
            models[model.name] = _joined(models[model.name], model) if model.name in models else model
    return tuple(models.values())


def _joined(one: ModelInfo, other: ModelInfo) -> ModelInfo:
    """What is promised of the model must hold wherever a request goes."""
    expiries = (one.expires_in_s, other.expires_in_s)
    return replace(
        one,
        max_model_len=min(one.max_model_len, other.max_model_len),
        num_workers=one.num_workers + other.num_workers,
        num_unloaded_workers=one.num_unloaded_workers + other.num_unloaded_workers,
        expires_in_s=None if None in expiries else max(filter(None, expiries), default=0.0),
    )


def sum_loads(loads: Sequence[Load]) -> Load:
    return Load(
        workers=tuple(worker for load in loads for worker in load.workers),
        queues=_joined_queues(queue for load in loads for queue in load.queues),
        queue_drain_per_s=sum(load.queue_drain_per_s for load in loads),
        num_waiting=sum(load.num_waiting for load in loads),
        num_running=sum(load.num_running for load in loads),
        num_pending_tokens=sum(load.num_pending_tokens for load in loads),
        num_preemptions=sum(load.num_preemptions for load in loads),
        num_prefix_queries=sum(load.num_prefix_queries for load in loads),
        num_prefix_hits=sum(load.num_prefix_hits for load in loads),
        num_model_loads=sum(load.num_model_loads for load in loads),
        num_failed_model_loads=sum(load.num_failed_model_loads for load in loads),
        num_model_unloads=sum(load.num_model_unloads for load in loads),
        model_load_s=sum(load.model_load_s for load in loads),
        num_index_published=sum(load.num_index_published for load in loads),
        num_index_dropped=sum(load.num_index_dropped for load in loads),
        is_index_reachable=all(load.is_index_reachable for load in loads),
    )


def _joined_queues(queues: Iterable[QueueLoad]) -> tuple[QueueLoad, ...]:
    """One for each model and tenant, wherever they wait."""
    joined: dict[tuple[str, str], QueueLoad] = {}
    for queue in queues:
        key = (queue.model, queue.tenant)
        other = joined.get(key)
        joined[key] = queue if other is None else _sum_of(other, queue)
    return tuple(joined.values())


def _sum_of(one: QueueLoad, other: QueueLoad) -> QueueLoad:
    return replace(
        one,
        num_waiting=one.num_waiting + other.num_waiting,
        oldest_s=max(one.oldest_s, other.oldest_s),
        next_position=min(one.next_position, other.next_position),
    )
