"""The gateways as clients see them: when one is killed, its connections break, and clients retry at the other one."""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Self, TypeVar

import httpx
import openai

from tests.e2e.failover_streams import Clients
from tests.e2e.received import Answer, OnChunk

T = TypeVar("T")

# Errors of the official clients when a connection is refused or ends in the middle of an answer.
CONNECTION_ERRORS = (openai.APIConnectionError, httpx.TransportError, ConnectionError)


class Door:
    """A gateway's address, whichever process listens there."""

    def __init__(self, url: str) -> None:
        self.clients = Clients(url)
        self.is_open = True
        self.num_deaths = 0

    def close(self) -> None:
        """Send no more requests to this gateway, which is about to be killed."""
        self.is_open = False
        self.num_deaths += 1


class Doors:
    def __init__(self, urls: Sequence[str], chance: random.Random) -> None:
        self.doors = [Door(url) for url in urls]
        self.num_open = 0
        """Number of running requests."""
        self.num_broken = 0
        """Number of requests whose connection broke with their gateway."""
        self._chance = chance
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for door in self.doors:
            await self._entered.enter_async_context(door.clients)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._entered.aclose()

    async def ask(self, number: int, on_chunk: OnChunk = lambda: None) -> Answer:
        return await self.through_one(lambda clients: clients.ask(number, on_chunk))

    async def through_one(self, asked: Callable[[Clients], Awaitable[T]]) -> T:
        """Ask a live gateway, and retry if the connection breaks because that gateway was killed."""
        self.num_open += 1
        try:
            while True:
                door = self._chance.choice([door for door in self.doors if door.is_open])
                num_deaths = door.num_deaths
                try:
                    return await asked(door.clients)
                except CONNECTION_ERRORS:
                    if door.num_deaths == num_deaths:
                        raise
                    self.num_broken += 1
        finally:
            self.num_open -= 1
