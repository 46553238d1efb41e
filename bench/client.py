"""A load client, which sends planned requests to an OpenAI-compatible server and records when each chunk arrives.

Token counts come from the server's usage, times from the chunks that carry text.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.workloads import GREEDY, PlannedRequest

TIMEOUT_S = 600.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The outcome of one request. Times are in seconds on the monotonic clock."""

    start_s: float
    end_s: float = 0.0
    chunk_times_s: list[float] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """The rate of requests: at most `concurrency` at once, and with a rate (per second) a Poisson process of arrivals."""

    concurrency: int
    request_rate: float | None = None
    seed: int = 0


class OpenAIClient:
    def __init__(
        self,
        base_url: str,
        *,
        model: str = "",
        api_key: str | None = None,
        sampling: Mapping[str, float] = GREEDY,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Create a client. `transport` replaces the network in tests."""
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._sampling = sampling
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            # One connection per request: llama.cpp may close a kept one while the next request is on its way.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> "OpenAIClient":
        """Ask the server for its first model if none was given."""
        if not self.model:
            response = await self._http.get(f"{self.base_url}/models")
            response.raise_for_status()
            self.model = response.json()["data"][0]["id"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(self, request: PlannedRequest) -> Outcome:
        outcome = Outcome(start_s=time.perf_counter())
        try:
            async for chunk in self._stream(request):
                _record(chunk, outcome)
            if not outcome.num_output_tokens:
                outcome.error = "the stream ended without usage"
        except (httpx.HTTPError, ServerError, json.JSONDecodeError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        outcome.end_s = time.perf_counter()
        return outcome

    async def _stream(self, request: PlannedRequest) -> AsyncIterator[dict[str, Any]]:
        body = {
            "model": self.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            **self._sampling,
            "ignore_eos": True,  # For exact output lengths; a server without it may stop early.
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self._http.stream("POST", f"{self.base_url}/completions", json=body) as response:
            if response.is_error:
                raise ServerError(f"{response.status_code} {(await response.aread())[:200]!r}")
            async for line in response.aiter_lines():
                if line.startswith("data:") and line.removeprefix("data:").strip() != "[DONE]":
                    yield json.loads(line.removeprefix("data:"))


class ServerError(Exception):
    """An HTTP error status, or an error event in the stream."""


def _record(chunk: dict[str, Any], outcome: Outcome) -> None:
    if "error" in chunk:
        raise ServerError(str(chunk["error"]))
    if chunk.get("choices"):
        outcome.chunk_times_s.append(time.perf_counter())
    if usage := chunk.get("usage"):
        outcome.num_prompt_tokens = usage["prompt_tokens"]
        outcome.num_output_tokens = usage["completion_tokens"]
        outcome.num_cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


async def run_load(client: OpenAIClient, requests: Sequence[PlannedRequest], shape: LoadShape) -> list[Outcome]:
    """Send the requests and return their outcomes, in the order of the requests."""
    room = asyncio.Semaphore(shape.concurrency)
    arrivals = random.Random(shape.seed)

    async def send(request: PlannedRequest) -> Outcome:
        async with room:
            return await client.complete(request)

    async with asyncio.TaskGroup() as group:
        tasks = []
        for request in requests:
            tasks.append(group.create_task(send(request)))
            if shape.request_rate is not None:
                await asyncio.sleep(arrivals.expovariate(shape.request_rate))
    return [task.result() for task in tasks]
