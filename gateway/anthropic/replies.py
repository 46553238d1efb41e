"""The conversion of text events into Anthropic's response objects, streamed in events or whole."""

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from typing import Any

import orjson
from pydantic_core import from_json, to_json

from gateway.answers.text_events import SampleBegan, SampleEnded, TextDelta, TextEvents
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart
from pagoda.wire.finished import FinishReason

JSONObject = dict[str, Any]
_ID_PREFIX = "toolu_"
_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""The field that has the piece of text, by the type of the delta."""


class Reply:
    """The reply to one HTTP request. A whole reply is put together from the events of a stream, so both are the same."""

    def __init__(self, model: str, *, num_prompt_tokens: int, hides_thinking: bool = False) -> None:
        """Take the model's name as the client wrote it. `hides_thinking`: thinking blocks are sent without their text."""
        self._id = f"msg_{uuid.uuid4().hex}"
        self._model = model
        self._num_prompt_tokens = num_prompt_tokens
        self._blocks = _Blocks(hides_thinking=hides_thinking)

    async def encode_whole(self, events: TextEvents) -> bytes:
        """Return the response's JSON."""
        message: JSONObject = {}
        async with aclosing(self.stream_events(events)) as stream:
            async for event in stream:
                if event["type"] == "message_start":
                    message = event["message"]
                elif event["type"] == "message_delta":
                    message |= {**event["delta"], "usage": event["usage"]}
        return orjson.dumps({**message, "content": self._blocks.whole()})

    async def stream_events(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        """Yield the events of the stream."""
        async with aclosing(events):
            async for event in events:
                match event:
                    case SampleBegan():
                        yield {"type": "message_start", "message": self._empty_message(event.num_cached_tokens)}
                        yield {"type": "ping"}
                    case TextDelta():
                        for part in event.answer_parts:
                            for block_event in self._blocks.add_part(part):
                                yield block_event
                    case SampleEnded():
                        for block_event in self._blocks.end_block():
                            yield block_event
                        usage = self._usage(event.usage.num_cached_tokens, event.usage.num_output_tokens)
                        if event.num_reasoning_tokens:
                            usage["output_tokens_details"] = {"thinking_tokens": event.num_reasoning_tokens}
                        yield {"type": "message_delta", "delta": _stop(event), "usage": usage}
                        yield {"type": "message_stop"}

    def _empty_message(self, num_cached_tokens: int) -> JSONObject:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(num_cached_tokens, 0),
        }

    def _usage(self, num_cached_tokens: int, num_output_tokens: int) -> JSONObject:
        """Return the usage. Anthropic's `input_tokens` are those that were not cached."""
        return {
            "input_tokens": self._num_prompt_tokens - num_cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": num_cached_tokens,
            "output_tokens": num_output_tokens,
        }


class _Blocks:
    """The content blocks of one answer. A block ends when a part of another kind or another call begins."""

    def __init__(self, *, hides_thinking: bool) -> None:
        self._hides_thinking = hides_thinking
        self._blocks: list[JSONObject] = []
        self._pieces: list[list[str]] = []
        """The pieces of the text, the thinking or the arguments of each block."""
        self._is_open = False

    def add_part(self, part: AnswerPart) -> Iterator[JSONObject]:
        match part:
            case ContentPart():
                yield from self._continue_block({"type": "text", "text": ""})
                yield self._delta("text_delta", part.text)
            case ReasoningPart():
                yield from self._continue_block({"type": "thinking", "thinking": "", "signature": ""})
                if not self._hides_thinking:
                    yield self._delta("thinking_delta", part.text)
            case CallBegan():
                yield from self._begin_block(
                    {"type": "tool_use", "id": call_id(part.id), "name": part.name, "input": {}}
                )
            case CallArguments():
                yield self._delta("input_json_delta", part.text)

    def end_block(self) -> Iterator[JSONObject]:
        """Yield the events that end the open block, if there is one."""
        if self._is_open:
            index = len(self._blocks) - 1
            if self._blocks[-1]["type"] == "thinking":
                # There is nothing to verify, but clients expect the event.
                delta = {"type": "signature_delta", "signature": ""}
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
            self._is_open = False

    def whole(self) -> list[JSONObject]:
        """Return the blocks with their contents."""
        return [
            self._whole_block(block, "".join(pieces)) for block, pieces in zip(self._blocks, self._pieces, strict=True)
        ]

    def _whole_block(self, block: JSONObject, text: str) -> JSONObject:
        if block["type"] == "tool_use":
            return {**block, "input": _arguments(text)}
        return {**block, block["type"]: text}

    def _continue_block(self, empty: JSONObject) -> Iterator[JSONObject]:
        if not self._is_open or self._blocks[-1]["type"] != empty["type"]:
            yield from self._begin_block(empty)

    def _begin_block(self, empty: JSONObject) -> Iterator[JSONObject]:
        yield from self.end_block()
        self._blocks.append(empty)
        self._pieces.append([])
        self._is_open = True
        yield {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": empty}

    def _delta(self, kind: str, text: str) -> JSONObject:
        self._pieces[-1].append(text)
        index = len(self._blocks) - 1
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, _DELTAS[kind]: text}}


def call_id(identifier: str) -> str:
    """Return the id of a call with Anthropic's prefix."""
    return _ID_PREFIX + identifier.removeprefix("call_")


def _arguments(text: str) -> orjson.Fragment | JSONObject:
    """Return the arguments as far as they go: an answer that reached its limit may end within a call.

    Anthropic's clients read the arguments of a stream in the same way. Complete arguments stay as the model wrote them, since they
    may have numbers and escapes that orjson does not encode.
    """
    with suppress(ValueError, RecursionError):
        if isinstance(json.loads(text), dict):
            return orjson.Fragment(text)
    try:
        arguments = from_json(text, allow_partial=True) if text else {}
    except ValueError:
        return {}
    return orjson.Fragment(to_json(arguments, inf_nan_mode="null")) if isinstance(arguments, dict) else {}


def _stop(end: SampleEnded) -> JSONObject:
    if end.reason is FinishReason.LENGTH:
        reason = "max_tokens"
    elif isinstance(end.stop_reason, str):
        reason = "stop_sequence"
    else:
        reason = "tool_use" if end.num_calls else "end_turn"
    return {"stop_reason": reason, "stop_sequence": end.stop_reason if reason == "stop_sequence" else None}
