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

from gateway.answers.logprobs import AnswerLogprobs, token_object
from gateway.answers.text_events import SampleEnded, TextDelta, TextEvents, TokenText
from gateway.ollama.pieces import AnswerPieces, Call, Piece, joined
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
        """Yield the lines of the stream. A call has its line as soon as it is complete."""
        answer = AnswerPieces()
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    # Most answers are not parsed: their text is a piece by itself.
                    piece = answer.add_parts(event.parts) if event.parts else Piece(content=event.text)
                    if piece or event.logprobs:
                        yield self._answer_line(piece, event.logprobs) | {"done": False}
                elif isinstance(event, SampleEnded):
                    if piece := answer.finish():
                        yield self._answer_line(piece, ()) | {"done": False}
                    yield self._answer_line(Piece(), ()) | self._last_fields(event)

    async def encode_whole(self, events: TextEvents) -> bytes:
        """Return the response's JSON."""
        counted = AnswerLogprobs()
        answer = AnswerPieces()
        pieces: list[Piece] = []
        logprobs: list[TokenText] = []
        end: JSONObject = {}
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    pieces.append(answer.add_parts(event.answer_parts))
                    logprobs.extend(event.logprobs)
                    counted.count_logprobs(event.logprobs)
                elif isinstance(event, SampleEnded):
                    pieces.append(answer.finish())
                    end = self._last_fields(event)
        whole = partial(self._answer_line, joined(pieces), logprobs)
        return orjson.dumps((await asyncio.to_thread(whole) if logprobs else whole()) | end)

    def nothing_asked(self, done_reason: str) -> JSONObject:
        """Return the answer to a request without a prompt, whose reason is "load" or "unload"."""
        return self._answer_line(Piece(), ()) | {"done": True, "done_reason": done_reason}

    def only_prompt(self, prompt: str) -> JSONObject:
        """Return the reply that shows a prompt for which nothing is generated."""
        return self._answer_line(Piece(), ()) | {"done": False, "_debug_info": {"rendered_template": prompt}}

    @abstractmethod
    def _piece_fields(self, piece: Piece) -> JSONObject: ...

    def _context_field(self, end: SampleEnded) -> JSONObject:
        return {}

    def _answer_line(self, piece: Piece, logprobs: Sequence[TokenText]) -> JSONObject:
        line: JSONObject = {"model": self._model, "created_at": _now()} | self._piece_fields(piece)
        if self._wants_logprobs and logprobs:
            line["logprobs"] = list(map(token_object, logprobs))
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

    def _piece_fields(self, piece: Piece) -> JSONObject:
        fields: JSONObject = {"response": piece.content}
        if piece.thinking:
            fields["thinking"] = piece.thinking
        return fields

    def _context_field(self, end: SampleEnded) -> JSONObject:
        return {} if self._prompt is None else {"context": [*self._prompt, *end.token_ids]}


class ChatReply(Reply):
    """The reply of /api/chat."""

    def _piece_fields(self, piece: Piece) -> JSONObject:
        message: JSONObject = {"role": "assistant", "content": piece.content}
        if piece.thinking:
            message["thinking"] = piece.thinking
        if piece.calls:
            message["tool_calls"] = [_call(call) for call in piece.calls]
        return {"message": message}


def _call(call: Call) -> JSONObject:
    return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": call.arguments}}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
