"""All schedulers as the rest of the gateway asks them: what they serve and have to do, as if they were one.

Their answers are joined here by pure functions. placement.py decides where requests go.
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

# Listings do not wait any longer for a scheduler that may be about to be found silent; where there is no other, for its return.
ANSWER_LIMIT_S, RETURN_LIMIT_S = 0.5, 5.0

T = TypeVar("T")


class Schedulers:
    def __init__(self, clients: Sequence[SchedulerClient], *, outage_grace_s: float) -> None:
        """A scheduler that was lost or drains may be back within `outage_grace_s`, and its workers with it."""
        self.clients = tuple(clients)
        self.outage_grace_s = outage_grace_s

    @property
    def problem(self) -> str | None:
        """Why no request can be sent now; None when all is well."""
        problems = [client.problem for client in self.clients]
        return None if None in problems else "; ".join(filter(None, problems))

    @property
    def recover_until_s(self) -> float:
        """Until when what is missing may come back, by the event loop's clock."""
        return max(client.failed_at_s for client in self.clients) + self.outage_grace_s

    @property
    def is_recovering(self) -> bool:
        return asyncio.get_running_loop().time() < self.recover_until_s

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Return all that any of them serves. Raises GatewayError when none can be asked."""
        return _join_models(await self._ask(_models_of))

    def last_known(self, model: str) -> ModelInfo | None:
        """Return what one of them said of the model, perhaps before it was lost."""
        return next((client.known[model] for client in self.clients if model in client.known), None)

    async def get_load(self) -> SchedulerLoad:
        """Return the load of those that answer, as if they were one. Raises GatewayError when none does."""
        return _sum_loads(await self._ask(lambda client: client.calls.get_load(_answer_limit_s(client))))

    async def keep_loaded(self, model: str, keep_alive_s: float | None, *, may_unload: bool = True) -> None:
        """Have all that serve the model keep it. Returns once each has answered; raises GatewayError when none can do it."""
        await self._ask(
            lambda client: client.calls.keep_loaded(model, keep_alive_s, may_unload=may_unload),
            lambda client: model in client.models,
        )

    async def _ask(
        self,
        question: Callable[[SchedulerClient], Awaitable[T]],
        concerns: Callable[[SchedulerClient], bool] = lambda client: True,
    ) -> list[T]:
        """Return the answers of those that are reachable and concerned, else of all. Raises GatewayError when each is an error."""
        connected = [client for client in self.clients if client.is_connected]
        asked = [client for client in connected if concerns(client)] or connected or self.clients
        answers = await asyncio.gather(*(_answer_or_error(question(client)) for client in asked))
        good = [answer for answer in answers if not isinstance(answer, GatewayError)]
        for client, answer in zip(asked, answers, strict=True):
            if isinstance(answer, GatewayError):
                if not good:
                    raise answer
                told = {"address": client.address, "reason": answer.message}
                logger.warning("one scheduler did not do what others did", extra=told)
        return good


async def _models_of(client: SchedulerClient) -> Iterable[ModelInfo]:
    try:
        return await client.calls.list_models(_answer_limit_s(client))
    except GatewayError:
        if client.is_connected:
            # It is slow. What it said a second ago is better than nothing.
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
    """Return each model once, whichever schedulers serve it."""
    models: dict[str, ModelInfo] = {}
    for answer in answers:
        for model in answer:
            models[model.name] = _joined(models[model.name], model) if model.name in models else model
    return tuple(models.values())


def _joined(one: ModelInfo, other: ModelInfo) -> ModelInfo:
    """Promise only what holds wherever a request for the model goes."""
    expiries = (one.expires_in_s, other.expires_in_s)
    return replace(
        one,
        max_model_len=min(one.max_model_len, other.max_model_len),
        num_workers=one.num_workers + other.num_workers,
        num_unloaded_workers=one.num_unloaded_workers + other.num_unloaded_workers,
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
    """It is reachable where it answers all of them."""
    unreachable = [index.breaker_state for index in indexes if not index.is_reachable]
    return PrefixIndexLoad(
        num_published_blocks=sum(index.num_published_blocks for index in indexes),
        num_dropped_blocks=sum(index.num_dropped_blocks for index in indexes),
        breaker_state=unreachable[0] if unreachable else inference_pb2.BREAKER_STATE_CLOSED,
    )


def _joined_queues(queues: Iterable[QueueLoad]) -> tuple[QueueLoad, ...]:
    """Return one queue for each model and tenant, wherever they wait."""
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
