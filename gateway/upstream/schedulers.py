"""All schedulers as the rest of the gateway asks them: what they serve and have to do, as if they were one.

Knows nothing about gRPC, text and HTTP, nor where requests go (placement.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from gateway.errors import GatewayError
from gateway.upstream.inference import Load, ModelInfo
from gateway.upstream.joined_answers import join_models, sum_loads
from gateway.upstream.scheduler_client import SchedulerClient

logger = logging.getLogger(__name__)

# Listings do not wait any longer for a scheduler that may be about to be found silent; where there is no other, for its return.
ANSWER_LIMIT_S, RETURN_LIMIT_S = 0.5, 5.0

T = TypeVar("T")


class Schedulers:
    def __init__(self, clients: Sequence[SchedulerClient], *, outage_grace_s: float) -> None:
        """One that was lost or drains may be back within `outage_grace_s`, and its workers with it."""
        self.clients = tuple(clients)
        self.outage_grace_s = outage_grace_s

    @property
    def problem(self) -> str | None:
        """Why no request can be sent now; None when all is well."""
        problems = [client.problem for client in self.clients]
        return None if None in problems else "; ".join(filter(None, problems))

    @property
    def recover_until_s(self) -> float:
        """By the event loop's clock: so long what is missing may come back."""
        return max(client.failed_at_s for client in self.clients) + self.outage_grace_s

    @property
    def is_recovering(self) -> bool:
        return asyncio.get_running_loop().time() < self.recover_until_s

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """All that any of them serves. Raises GatewayError when none can be asked."""
        return join_models(await self._ask(_models_of))

    def last_known(self, model: str) -> ModelInfo | None:
        """What one of them said of it, perhaps before it was lost."""
        return next((client.known[model] for client in self.clients if model in client.known), None)

    async def get_load(self) -> Load:
        """Of those that answer, as if they were one. Raises GatewayError when none does."""
        return sum_loads(await self._ask(lambda client: client.calls.get_load(_answer_limit_s(client))))

    async def keep_loaded(self, model: str, keep_alive_s: float | None, *, may_unload: bool = True) -> None:
        """By all that serve it. Returns once each has answered, as the contract says; raises GatewayError when none can do it."""
        await self._ask(
            lambda client: client.calls.keep_loaded(model, keep_alive_s, may_unload=may_unload),
            lambda client: model in client.models,
        )

    async def _ask(
        self,
        question: Callable[[SchedulerClient], Awaitable[T]],
        concerns: Callable[[SchedulerClient], bool] = lambda client: True,
    ) -> list[T]:
        """The answers of those that are reachable and concerned, else of all. Raises GatewayError when each is an error."""
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
