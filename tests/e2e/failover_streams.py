"""Streams of all kinds through the official clients, recorded token by token, to show that a failure changes none of them.

They cover both dialects, chats and completions, greedy and seeded, one sample and two, with and without log-probabilities, free
and held to a schema (guided_streams.py).
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, Self

import ollama
import openai

from tests.e2e.guided_streams import NUM_FREE, ask_guided
from tests.e2e.received import MODEL, Answer, OnChunk, Sample, take_choice, take_end

MAX_TOKENS = 16
# More tokens than a worker can have computed without its scheduler's knowledge: two steps, or the rest of a lease. A stream that
# progressed this far since the last failure is not suspected of having caused it.
NUM_CHUNKS_BETWEEN = 16
_OPENAI_EXTRAS = {"return_token_ids": True, "ignore_eos": True}


class Clients:
    """The official clients of both dialects for one gateway."""

    def __init__(self, url: str) -> None:
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.ollama = ollama.AsyncClient(host=url)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self.openai)
        await self._open.enter_async_context(self.ollama)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._open.aclose()

    async def ask_all(self, numbers: Sequence[int], on_chunk: OnChunk = lambda: None) -> list[Answer]:
        """Request all streams at once. Each number is a different stream, the same one every time."""
        return await asyncio.gather(*(self.ask(number, on_chunk) for number in numbers))

    async def ask(self, number: int, on_chunk: OnChunk = lambda: None) -> Answer:
        if number >= NUM_FREE:
            return await ask_guided(self.openai, self.ollama, number, on_chunk)
        kind = (self._chat, self._completion, self._ollama_chat, self._ollama_generate)[number % 4]
        return await kind(number, on_chunk)

    async def _chat(self, number: int, on_chunk: OnChunk) -> Answer:
        stream = await self.openai.chat.completions.create(
            model=MODEL, messages=_messages(number), stream=True, **_openai_options(number, logprobs=True)
        )
        answer: Answer = defaultdict(Sample)
        async for chunk in stream:
            on_chunk()
            for choice in chunk.choices:
                sample = answer[choice.index]
                sample.text += choice.delta.content or ""
                if choice.logprobs is not None:
                    sample.logprobs += [(each.token, each.logprob) for each in choice.logprobs.content or ()]
                take_choice(sample, choice)
        return answer

    async def _completion(self, number: int, on_chunk: OnChunk) -> Answer:
        return await self._read(on_chunk, prompt=_prompt(number), **_openai_options(number, logprobs=1))

    async def complete(self, prompt: list[int], max_tokens: int, on_chunk: OnChunk = lambda: None) -> Answer:
        """Return a greedy completion of `max_tokens` tokens."""
        return await self._read(
            on_chunk, prompt=prompt, max_tokens=max_tokens, temperature=0.0, extra_body=_OPENAI_EXTRAS
        )

    async def _read(self, on_chunk: OnChunk, **asked: Any) -> Answer:
        stream = await self.openai.completions.create(model=MODEL, stream=True, **asked)
        answer: Answer = defaultdict(Sample)
        async for chunk in stream:
            on_chunk()
            for choice in chunk.choices:
                sample = answer[choice.index]
                sample.text += choice.text
                if choice.logprobs is not None:
                    tokens, values = choice.logprobs.tokens or (), choice.logprobs.token_logprobs or ()
                    sample.logprobs += zip(tokens, values, strict=True)
                take_choice(sample, choice)
        return answer

    async def _ollama_chat(self, number: int, on_chunk: OnChunk) -> Answer:
        sample = Sample()
        stream = await self.ollama.chat(MODEL, _messages(number), stream=True, options=_ollama_options(number))
        async for part in stream:
            on_chunk()
            sample.text += part.message.content or ""
            take_end(sample, part)
        return {0: sample}

    async def _ollama_generate(self, number: int, on_chunk: OnChunk) -> Answer:
        sample = Sample()
        stream = await self.ollama.generate(MODEL, _prompt(number), stream=True, options=_ollama_options(number))
        async for part in stream:
            on_chunk()
            sample.text += part.response or ""
            take_end(sample, part)
        return {0: sample}


class Streams(Protocol):
    """The interface of Clients, or of a group of them."""

    async def ask(self, number: int, on_chunk: OnChunk) -> Answer: ...


class Asker:
    """A client that requests one stream after the other, and counts the chunks."""

    def __init__(self, clients: Streams, undisturbed: Sequence[Answer], chance: random.Random) -> None:
        self._clients = clients
        self._undisturbed = undisturbed
        self._chance = chance
        self._num_chunks = 0
        self.num_answers = 0
        self.is_to_end = False
        self.has_got_on = asyncio.Event()

    async def run(self) -> None:
        while not self.is_to_end:
            number = self._chance.randrange(len(self._undisturbed))
            assert await self._clients.ask(number, self._count) == self._undisturbed[number]
            self.num_answers += 1

    def _count(self) -> None:
        self._num_chunks += 1
        if self._num_chunks == NUM_CHUNKS_BETWEEN:
            self.has_got_on.set()

    async def gets_on(self) -> None:
        """Wait until this client received more chunks than a worker can have computed ahead at an earlier failure."""
        self._num_chunks = 0
        self.has_got_on.clear()
        await self.has_got_on.wait()


def _prompt(number: int) -> str:
    return f"Here is what I know about the number {number}. It"


def _messages(number: int) -> list[Any]:
    return [{"role": "user", "content": f"Write about the number {number}."}]


def _openai_options(number: int, *, logprobs: Any) -> dict[str, Any]:
    """Return the options: one of four streams of a kind is greedy, every second has two samples, two of four log-probabilities."""
    options: dict[str, Any] = {"max_tokens": MAX_TOKENS, "seed": number, "n": 1 + number // 4 % 2}
    options["temperature"] = 0.0 if number // 4 % 4 == 0 else 1.0
    options["extra_body"] = _OPENAI_EXTRAS
    return options | ({"logprobs": logprobs} if number // 8 % 2 else {})


def _ollama_options(number: int) -> dict[str, Any]:
    return {"num_predict": MAX_TOKENS, "seed": number, "temperature": float(number // 4 % 2)}
