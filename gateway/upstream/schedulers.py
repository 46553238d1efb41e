"""All schedulers as one: the models that they serve and their load.

Pure functions join their answers. placement.py decides where requests go.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from gateway.errors import GatewayError
from gateway.upstream.scheduler_client import SchedulerClient
from pagoda.wire.load import PrefixIndexLoad, QueueLoad, SchedulerLoad
from pagoda.wire.model_info import ModelInfo
from protos.v1 import inference_pb2

logger = logging.getLogger(__name__)

# Seconds that a listing waits for a connected scheduler, and for one that is lost, if no other is connected.
ANSWER_LIMIT_S, RETURN_LIMIT_S = 0.5, 5.0

T = TypeVar("T")


class Schedulers:
    """The clients of all schedulers, asked as if they were one scheduler."""

    def __init__(self, clients: Sequence[SchedulerClient], *, outage_grace_s: float) -> None:
        """Join the clients. A lost or draining scheduler and its workers may be back within `outage_grace_s`."""
        self.clients = tuple(clients)
        self.outage_grace_s = outage_grace_s

    @property
    def problem(self) -> str | None:
        """The reason why no scheduler accepts requests now; None if one does."""
        problems = [client.problem for client in self.clients]
        return None if None in problems else "; ".join(filter(None, problems))

    @property
    def recover_until_s(self) -> float:
        """The time, by the event loop's clock, until which lost schedulers and workers may be back."""
        return max(client.failed_at_s for client in self.clients) + self.outage_grace_s

    @property
    def is_recovering(self) -> bool:
        return asyncio.get_running_loop().time() < self.recover_until_s

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Return all models that any scheduler serves. Raises GatewayError if none answers."""
        return _join_models(await self._ask(_models_of))

    def last_known(self, model: str) -> ModelInfo | None:
        """Return the model as last reported by a scheduler, perhaps before that one was lost."""
        return next((client.known[model] for client in self.clients if model in client.known), None)

    async def get_load(self) -> SchedulerLoad:
        """Return the sum of the loads of all schedulers that answer. Raises GatewayError if none does."""
        return _sum_loads(await self._ask(lambda client: client.calls.get_load(_answer_limit_s(client))))

    async def keep_loaded(self, model: str, keep_alive_s: float | None, *, may_unload: bool = True) -> None:
        """Set the model's keep-alive on all schedulers that serve it, and wait for them. Raises GatewayError if all fail."""
        await self._ask(
            lambda client: client.calls.keep_loaded(model, keep_alive_s, may_unload=may_unload),
            lambda client: model in client.models,
        )

    async def _ask(
        self,
        question: Callable[[SchedulerClient], Awaitable[T]],
        concerns: Callable[[SchedulerClient], bool] = lambda client: True,
    ) -> list[T]:
        """Return the answers of the connected schedulers that `concerns` selects.

        If it selects none, all connected ones are asked; if none is connected, all. Raises GatewayError if each answer is an error.
        """
        connected = [client for client in self.clients if client.is_connected]
        asked = [client for client in connected if concerns(client)] or connected or self.clients
        answers = await asyncio.gather(*(_answer_or_error(question(client)) for client in asked))
        good = [answer for answer in answers if not isinstance(answer, GatewayError)]
        for client, answer in zip(asked, answers, strict=True):
            if isinstance(answer, GatewayError):
                if not good:
                    raise answer
                failed = {"address": client.address, "reason": answer.message}
                logger.warning("scheduler call failed; using the answers of the others", extra=failed)
        return good


async def _models_of(client: SchedulerClient) -> Iterable[ModelInfo]:
    try:
        return await client.calls.list_models(_answer_limit_s(client))
    except GatewayError:
        if client.is_connected:
            # The scheduler is slow; its answer of a second ago is better than none.
            return client.models.values()
        raise


def _answer_limit_s(client: SchedulerClient) -> float:
    return ANSWER_LIMIT_S if client.is_connected else RETURN_LIMIT_S


async def _answer_or_error(answer: Awaitable[T]) -> T | GatewayError:
    try:
        return await answer
    except GatewayError as error:
        return error


def _join_models(answers: Iterable[Iterable[ModelInfo]]) -> tuple[ModelInfo, ...]:
    """Return each model once, joined over the schedulers that serve it."""
    models: dict[str, ModelInfo] = {}
    for answer in answers:
        for model in answer:
            models[model.name] = _joined(models[model.name], model) if model.name in models else model
    return tuple(models.values())


def _joined(one: ModelInfo, other: ModelInfo) -> ModelInfo:
    """Join two descriptions of a model: limits that hold on both schedulers, and the sums of their workers."""
    expiries = (one.expires_in_s, other.expires_in_s)
    return replace(
        one,
        max_model_len=min(one.max_model_len, other.max_model_len),
        num_workers=one.num_workers + other.num_workers,
        num_unloaded_workers=one.num_unloaded_workers + other.num_unloaded_workers,
        loading=one.loading or other.loading,
        expires_in_s=None if None in expiries else max(filter(None, expiries), default=0.0),
    )


def _sum_loads(loads: Sequence[SchedulerLoad]) -> SchedulerLoad:
    names = [field.name for field in fields(SchedulerLoad) if field.name not in _NOT_SUMMED]
    sums: dict[str, Any] = {name: sum(getattr(load, name) for load in loads) for name in names}
    return SchedulerLoad(
        workers=tuple(worker for load in loads for worker in load.workers),
        queues=_joined_queues(queue for load in loads for queue in load.queues),
        prefix_index=_joined_index([load.prefix_index for load in loads]),
        is_draining=all(load.is_draining for load in loads),
        **sums,
    )


_NOT_SUMMED = ("workers", "queues", "prefix_index", "is_draining")


def _joined_index(indexes: Sequence[PrefixIndexLoad]) -> PrefixIndexLoad:
    """Join the schedulers' views of the prefix index, which is reachable if it answers all of them."""
    unreachable = [index.breaker_state for index in indexes if not index.is_reachable]
    return PrefixIndexLoad(
        num_published_blocks=sum(index.num_published_blocks for index in indexes),
        num_dropped_blocks=sum(index.num_dropped_blocks for index in indexes),
        breaker_state=unreachable[0] if unreachable else inference_pb2.BREAKER_STATE_CLOSED,
    )


def _joined_queues(queues: Iterable[QueueLoad]) -> tuple[QueueLoad, ...]:
    """Return one queue per model and tenant, joined over the schedulers."""
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
