"""From text events to OpenAI's response objects: one reply per HTTP request, streamed as chunks or given whole.

Knows nothing about HTTP; routes.py writes what this makes.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gateway.generation import SampleBegan, SampleEnded, TextDelta, TextEvents, TokenText
from gateway.openai.schemas import StreamOptions

JSONObject = dict[str, Any]


@dataclass(slots=True)
class _Choice:
    """What one choice has come to so far."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenText] = field(default_factory=list)
    num_characters: int = 0
    end: SampleEnded | None = None


class Reply(ABC):
    """What the two endpoints have in common. `num_samples` is n: choice i belongs to prompt i // n."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(
        self,
        *,
        model: str,
        num_prompt_tokens: Sequence[int],
        num_samples: int,
        wants_logprobs: bool,
        options: StreamOptions | None,
    ) -> None:
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._num_prompt_tokens = num_prompt_tokens
        self._num_samples = num_samples
        self._wants_logprobs = wants_logprobs
        self._include_usage = bool(options and options.include_usage)
        self._continuous_usage = bool(options and options.continuous_usage_stats)
        self._choices = [_Choice() for _ in range(num_samples * len(num_prompt_tokens))]

    async def whole(self, events: TextEvents) -> JSONObject:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    choice = self._choices[event.index]
                    choice.texts.append(event.text)
                    choice.logprobs.extend(event.logprobs)
                elif isinstance(event, SampleEnded):
                    self._choices[event.index].end = event
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        return self._envelope(self.whole_object, choices) | {"usage": self._usage()}

    async def chunks(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        """What begins a choice, its text, its end; when all have ended the usage, if it was asked for."""
        async with aclosing(events):
            async for event in events:
                payload, num_tokens = self._chunk_choice(event)
                if payload is not None:
                    chunk = self._envelope(self.chunk_object, [payload])
                    if self._continuous_usage:
                        chunk["usage"] = self._usage_so_far(event.index, num_tokens)
                    yield chunk
        if self._include_usage:
            yield self._envelope(self.chunk_object, []) | {"usage": self._usage()}

    @abstractmethod
    def _begin(self) -> JSONObject | None:
        """The payload that announces a choice, if the endpoint has one."""

    @abstractmethod
    def _delta(self, text: str) -> JSONObject: ...

    @abstractmethod
    def _whole_text(self, text: str) -> JSONObject: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject: ...

    def _chunk_choice(self, event: SampleBegan | TextDelta | SampleEnded) -> tuple[JSONObject | None, int]:
        choice, common = self._choices[event.index], {"index": event.index}
        match event:
            case SampleBegan():
                begin = self._begin()
                return None if begin is None else common | begin | _unfinished(None), 0
            case TextDelta():
                logprobs = self._logprobs(event.logprobs, choice.num_characters) if self._wants_logprobs else None
                choice.num_characters += len(event.text)
                return common | self._delta(event.text) | _unfinished(logprobs), event.num_tokens
            case SampleEnded():
                choice.end = event
                finish = {"logprobs": None, "finish_reason": event.reason.value, "stop_reason": event.stop_reason}
                return common | self._delta("") | finish, event.usage.num_output_tokens

    def _whole_choice(self, index: int, choice: _Choice) -> JSONObject:
        assert choice.end is not None, "a stream of events ends each sample"
        return {
            "index": index,
            **self._whole_text("".join(choice.texts)),
            "logprobs": self._logprobs(choice.logprobs, 0) if self._wants_logprobs else None,
            "finish_reason": choice.end.reason.value,
            "stop_reason": choice.end.stop_reason,
        }

    def _envelope(self, kind: str, choices: list[JSONObject]) -> JSONObject:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
            "choices": choices,
        }

    def _usage(self) -> JSONObject:
        """A prompt counts once, however many samples were drawn from it."""
        ends = [choice.end for choice in self._choices if choice.end is not None]
        num_cached = sum(end.usage.num_cached_tokens for end in ends if end.index % self._num_samples == 0)
        num_output = sum(end.usage.num_output_tokens for end in ends)
        return _usage(sum(self._num_prompt_tokens), num_output) | {
            "prompt_tokens_details": {"cached_tokens": num_cached}
        }

    def _usage_so_far(self, index: int, num_tokens: int) -> JSONObject:
        return _usage(self._num_prompt_tokens[index // self._num_samples], num_tokens)


class ChatReply(Reply):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _begin(self) -> JSONObject:
        return {"delta": {"role": "assistant", "content": ""}}

    def _delta(self, text: str) -> JSONObject:
        return {"delta": {"content": text} if text else {}}

    def _whole_text(self, text: str) -> JSONObject:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        content = [
            _chat_token(token) | {"top_logprobs": [_chat_token(alternative) for alternative in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionReply(Reply):
    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _begin(self) -> None:
        return None

    def _delta(self, text: str) -> JSONObject:
        return {"text": text}

    def _whole_text(self, text: str) -> JSONObject:
        return {"text": text}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        offsets, offset = [], num_characters_before
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "text_offset": offsets,
            "token_logprobs": [token.logprob for token in tokens],
            "tokens": [token.text for token in tokens],
            "top_logprobs": [_completion_top(token) for token in tokens],
        }


def _unfinished(logprobs: JSONObject | None) -> JSONObject:
    return {"logprobs": logprobs, "finish_reason": None}


def _usage(num_prompt_tokens: int, num_output_tokens: int) -> JSONObject:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_prompt_tokens + num_output_tokens,
    }


def _chat_token(token: TokenText) -> JSONObject:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.utf8)}


def _completion_top(token: TokenText) -> JSONObject:
    """The chosen token is always among them, also when it is not among the most probable."""
    return {token.text: token.logprob} | {alternative.text: alternative.logprob for alternative in token.top}
