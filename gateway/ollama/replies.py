"""The conversion of text events into Ollama's response objects, streamed in lines or whole. Times are in nanoseconds."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from gateway.answers.logprobs import AnswerLogprobs
from gateway.answers.text_events import SampleEnded, TextDelta, TextEvents, TokenText
from gateway.ollama.schemas import GenerateRequest, OllamaChatRequest

JSONObject = dict[str, Any]


class Reply(ABC):
    """The reply to one HTTP request. It is made when the request arrives, and total_duration counts from then."""

    def __init__(self, body: GenerateRequest | OllamaChatRequest) -> None:
        self.is_streamed = body.stream is not False
        self._model = body.model
        self._wants_logprobs = bool(body.logprobs)
        self._arrived_at = time.monotonic()

    async def stream_lines(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        """Yield the lines of the stream."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    yield self._answer_line(event.text, event.logprobs) | {"done": False}
                elif isinstance(event, SampleEnded):
                    yield self._answer_line("", ()) | self._last_fields(event)

    async def encode_whole(self, events: TextEvents) -> bytes:
        """Return the response's JSON."""
        counted = AnswerLogprobs()
        texts: list[str] = []
        logprobs: list[TokenText] = []
        end: JSONObject = {}
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                    logprobs.extend(event.logprobs)
                    counted.count_logprobs(event.logprobs)
                elif isinstance(event, SampleEnded):
                    end = self._last_fields(event)
        whole = partial(self._answer_line, "".join(texts), logprobs)
        return orjson.dumps((await asyncio.to_thread(whole) if logprobs else whole()) | end)

    def nothing_asked(self, done_reason: str) -> JSONObject:
        """Return the answer to a request without a prompt, whose reason is "load" or "unload"."""
        return self._answer_line("", ()) | {"done": True, "done_reason": done_reason}

    @abstractmethod
    def _text_field(self, text: str) -> JSONObject: ...

    def _context_field(self, end: SampleEnded) -> JSONObject:
        return {}

    def _answer_line(self, text: str, logprobs: Sequence[TokenText]) -> JSONObject:
        line: JSONObject = {"model": self._model, "created_at": _now()} | self._text_field(text)
        if self._wants_logprobs and logprobs:
            line["logprobs"] = [
                _token(token) | {"top_logprobs": [_token(alternative) for alternative in token.top]}
                for token in logprobs
            ]
        return line

    def _last_fields(self, end: SampleEnded) -> JSONObject:
        """Return the fields of the last line. load_duration is the wait for a worker, which includes loading the model."""
        return {
            "done": True,
            "done_reason": end.reason.value,
            **self._context_field(end),
            "total_duration": _nanoseconds(time.monotonic() - self._arrived_at),
            "load_duration": _nanoseconds(end.timings.queue_s),
            "prompt_eval_count": end.usage.num_prompt_tokens,
            "prompt_eval_duration": _nanoseconds(end.timings.prefill_s),
            "eval_count": end.usage.num_output_tokens,
            "eval_duration": _nanoseconds(end.timings.decode_s),
        }


class GenerateReply(Reply):
    """The reply of /api/generate. `prompt` is None if the reply has no context for a next turn, as in raw mode."""

    def __init__(self, body: GenerateRequest, *, prompt: Sequence[int] | None = None) -> None:
        super().__init__(body)
        self._prompt = prompt

    def _text_field(self, text: str) -> JSONObject:
        return {"response": text}

    def _context_field(self, end: SampleEnded) -> JSONObject:
        return {} if self._prompt is None else {"context": [*self._prompt, *end.token_ids]}


class ChatReply(Reply):
    """The reply of /api/chat."""

    def _text_field(self, text: str) -> JSONObject:
        return {"message": {"role": "assistant", "content": text}}


def _token(token: TokenText) -> JSONObject:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.utf8)}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
