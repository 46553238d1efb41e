"""From text events to OpenAI's response objects: one reply per HTTP request, streamed as chunks or given whole.

Knows nothing about HTTP; routes.py writes what this makes.
"""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import orjson

from gateway.answers.logprobs import AnswerLogprobs
from gateway.answers.text_events import (
    PromptScored,
    SampleBegan,
    SampleEnded,
    TextDelta,
    TextEvent,
    TextEvents,
    TokenText,
)
from gateway.answers.text_request import TextRequest
from pagoda.wire.finished import FinishReason

JSONObject = dict[str, Any]
"""To be written by orjson: it may have `orjson.Fragment`s in it."""
# Of a scored prompt, about five milliseconds' worth.
_TOKENS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyForm:
    """What the client wants to see, besides the answer."""

    model: str
    request_id: str | None = None
    """The client's own name for the request, which then names the response."""
    logprobs: bool = False
    num_prompt_logprobs: int | None = None
    """Alternatives to each token of the prompt; None shows nothing of it."""
    token_ids: bool = False
    tokens_as_ids: bool = False
    """Log-probabilities spell a token as `token_id:ID`, since not every token has a text of its own."""
    usage: bool = False
    """At the end of a stream; a whole response always has it."""
    continuous_usage: bool = False


@dataclass(slots=True)
class _Choice:
    """What one choice has come to so far."""

    prompt: TextRequest
    echo: str | None = None
    """The prompt's text, where it stands before the answer."""
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenText] = field(default_factory=list)
    num_characters: int = 0
    num_token_ids: int = 0
    """Those that the stream has shown."""
    prompt_logprobs: Sequence[TokenText] = ()
    end: SampleEnded | None = None


class Reply(ABC):
    """What the two endpoints have in common. Of n samples for each prompt, choice i belongs to prompt i // n."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, form: ReplyForm, requests: Sequence[TextRequest]) -> None:
        self._form = form
        self._id = f"{self.id_prefix}-{form.request_id or uuid.uuid4().hex}"
        self._created = int(time.time())
        self._num_prompt_tokens = sum(len(request.prompt_token_ids) for request in requests)
        self._num_samples = requests[0].num_samples
        self._candidates: dict[int, orjson.Fragment] = {}
        """By identity of what they were made of, which a choice keeps alive."""
        self._choices = [_Choice(request) for request in requests for _ in range(request.num_samples)]

    async def whole(self, events: TextEvents) -> bytes:
        """Return the response's JSON."""
        logprobs = AnswerLogprobs()
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    choice = self._choices[event.index]
                    choice.texts.append(event.text)
                    choice.logprobs.extend(event.logprobs)
                    logprobs.count(event.logprobs)
                elif isinstance(event, PromptScored):
                    self._choices[event.index].prompt_logprobs = event.tokens
                    await self._encode_candidates(event.tokens)
                elif isinstance(event, SampleEnded):
                    self._choices[event.index].end = event
        is_long = any(choice.logprobs or choice.prompt_logprobs for choice in self._choices)
        return await asyncio.to_thread(self._whole) if is_long else self._whole()

    def _whole(self) -> bytes:
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        return orjson.dumps(
            self._envelope(self.whole_object, choices) | self._whole_extras() | {"usage": self._usage()}
        )

    async def chunks(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        """What begins a choice, its text, its end; when all have ended the usage, if it was asked for."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, PromptScored):
                    payload, num_tokens = await asyncio.to_thread(self._chunk_choice, event)
                else:
                    payload, num_tokens = self._chunk_choice(event)
                if payload is not None:
                    chunk = self._envelope(self.chunk_object, [payload])
                    if isinstance(event, SampleBegan):
                        chunk |= self._whole_extras()
                    if self._form.usage:
                        chunk["usage"] = None  # until the last chunk, as OpenAI has it
                    if self._form.continuous_usage:
                        prompt = self._choices[event.index].prompt
                        chunk["usage"] = _usage(len(prompt.prompt_token_ids), num_tokens)
                    yield chunk
        if self._form.usage:
            yield self._envelope(self.chunk_object, []) | {"usage": self._usage()}

    def _whole_extras(self) -> JSONObject:
        """What stands beside the choices, once for all of them."""
        return {}

    @abstractmethod
    def _begin(self, choice: _Choice) -> JSONObject | None:
        """The payload that announces a choice, if there is something to say before its text."""

    def _prompt_scored(self, choice: _Choice, tokens: Sequence[TokenText]) -> JSONObject | None:
        """The payload of a stream for the prompt's log-probabilities, if the endpoint has one."""
        return None

    @abstractmethod
    def _delta(self, text: str) -> JSONObject: ...

    @abstractmethod
    def _whole_text(self, choice: _Choice) -> JSONObject: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject: ...

    def _chunk_choice(self, event: TextEvent) -> tuple[JSONObject | None, int]:
        """The choice as the chunk shows it, and how many tokens the sample has by then."""
        choice, common = self._choices[event.index], {"index": event.index}
        match event:
            case SampleBegan():
                begin = self._begin(choice)
                return None if begin is None else common | begin | _unfinished(None), 0
            case PromptScored():
                scored = self._prompt_scored(choice, event.tokens)
                return None if scored is None else common | scored, 0
            case TextDelta():
                logprobs = self._logprobs(event.logprobs, choice.num_characters) if self._form.logprobs else None
                choice.num_characters += len(event.text)
                delta = common | self._delta(event.text) | _unfinished(logprobs)
                return delta | self._next_token_ids(choice, event.token_ids), event.num_tokens
            case SampleEnded():
                choice.end = event
                finish = {"logprobs": None, "finish_reason": event.reason.value, "stop_reason": event.stop_reason}
                # A token without text has not been shown yet.
                rest = self._next_token_ids(choice, event.token_ids[choice.num_token_ids :])
                return common | self._delta("") | finish | rest, event.usage.num_output_tokens

    def _next_token_ids(self, choice: _Choice, token_ids: Sequence[int]) -> JSONObject:
        choice.num_token_ids += len(token_ids)
        return {"token_ids": list(token_ids)} if self._form.token_ids else {}

    def _whole_choice(self, index: int, choice: _Choice) -> JSONObject:
        assert choice.end is not None, "a stream of events ends each sample"
        token_ids = {"token_ids": list(choice.end.token_ids)} if self._form.token_ids else {}
        return {
            "index": index,
            **self._whole_text(choice),
            "logprobs": self._whole_logprobs(choice) if self._form.logprobs else None,
            "finish_reason": choice.end.reason.value,
            "stop_reason": choice.end.stop_reason,
            **token_ids,
        }

    def _whole_logprobs(self, choice: _Choice) -> JSONObject:
        return self._logprobs(choice.logprobs, 0)

    async def _encode_candidates(self, tokens: Sequence[TokenText]) -> None:
        """vLLM's form: for each token of the prompt the candidates by id, none for the first.

        As JSON, made once for all samples of a prompt, and in pieces between which other streams go on.
        """
        num_top = self._form.num_prompt_logprobs
        if num_top is None or id(tokens) in self._candidates:
            return
        encoded = [b"null"]
        for start in range(1, len(tokens), _TOKENS_AT_ONCE):
            await asyncio.sleep(0)
            encoded += [orjson.dumps(_candidates(token, num_top)) for token in tokens[start : start + _TOKENS_AT_ONCE]]
        self._candidates[id(tokens)] = orjson.Fragment(b"[" + b",".join(encoded) + b"]")

    def _prompt_logprobs(self, choice: _Choice) -> JSONObject:
        if self._form.num_prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": self._candidates[id(choice.prompt_logprobs)]}

    def _token(self, token: TokenText) -> str:
        return f"token_id:{token.token_id}" if self._form.tokens_as_ids else token.text

    def _envelope(self, kind: str, choices: list[JSONObject]) -> JSONObject:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._form.model,
            "system_fingerprint": None,
            "choices": choices,
        }

    def _usage(self) -> JSONObject:
        """A prompt counts once, however many samples were drawn from it."""
        ends = [choice.end for choice in self._choices if choice.end is not None]
        num_cached = sum(end.usage.num_cached_tokens for end in ends if end.index % self._num_samples == 0)
        num_output = sum(end.usage.num_output_tokens for end in ends)
        return _usage(self._num_prompt_tokens, num_output) | {"prompt_tokens_details": {"cached_tokens": num_cached}}


class ChatReply(Reply):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _whole_extras(self) -> JSONObject:
        choice = self._choices[0]
        token_ids = {"prompt_token_ids": list(choice.prompt.prompt_token_ids)} if self._form.token_ids else {}
        return token_ids | self._prompt_logprobs(choice)

    def _begin(self, choice: _Choice) -> JSONObject:
        return {"delta": {"role": "assistant", "content": ""}}

    def _delta(self, text: str) -> JSONObject:
        return {"delta": {"content": text} if text else {}}

    def _whole_text(self, choice: _Choice) -> JSONObject:
        return {"message": {"role": "assistant", "content": "".join(choice.texts), "refusal": None}}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        content = [
            self._one(token) | {"top_logprobs": [self._one(alternative) for alternative in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: TokenText) -> JSONObject:
        return {"token": self._token(token), "logprob": token.logprob, "bytes": list(token.utf8)}


class CompletionReply(Reply):
    """`echoes` are the texts of the prompts, when those stand before their completions."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(
        self, form: ReplyForm, requests: Sequence[TextRequest], echoes: Sequence[str], *, nothing_but_echo: bool = False
    ) -> None:
        super().__init__(form, requests)
        self._nothing_but_echo = nothing_but_echo
        for index, echo in enumerate(echoes):
            for choice in self._choices[index * self._num_samples : (index + 1) * self._num_samples]:
                choice.echo = echo
                choice.num_characters = len(echo)

    async def whole(self, events: TextEvents) -> bytes:
        return await super().whole(self._wanted(events))

    def chunks(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        return super().chunks(self._wanted(events))

    def _wanted(self, events: TextEvents) -> TextEvents:
        return _without_answer(events) if self._nothing_but_echo else events

    def _begin(self, choice: _Choice) -> JSONObject | None:
        """An echo with log-probabilities waits for those."""
        echo = "" if choice.echo is None or self._form.logprobs else choice.echo
        return {"text": echo, **self._prompt_token_ids(choice)} if echo or self._form.token_ids else None

    def _prompt_scored(self, choice: _Choice, tokens: Sequence[TokenText]) -> JSONObject | None:
        if choice.echo is None or not self._form.logprobs:
            return None
        return {"text": choice.echo, **_unfinished(self._logprobs(tokens, 0))}

    def _whole_logprobs(self, choice: _Choice) -> JSONObject:
        shown = () if choice.echo is None else choice.prompt_logprobs
        return self._logprobs([*shown, *choice.logprobs], 0)

    def _delta(self, text: str) -> JSONObject:
        return {"text": text}

    def _whole_text(self, choice: _Choice) -> JSONObject:
        return {
            "text": "".join((choice.echo or "", *choice.texts)),
            **self._prompt_token_ids(choice),
            **self._prompt_logprobs(choice),
        }

    def _prompt_token_ids(self, choice: _Choice) -> JSONObject:
        return {"prompt_token_ids": list(choice.prompt.prompt_token_ids)} if self._form.token_ids else {}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        offsets, offset = [], num_characters_before
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "text_offset": offsets,
            "token_logprobs": [token.logprob for token in tokens],
            "tokens": [self._token(token) for token in tokens],
            "top_logprobs": [None if token.logprob is None else self._top(token) for token in tokens],
        }

    def _top(self, token: TokenText) -> JSONObject:
        """The chosen token is always among them, also when it is not among the most probable."""
        return {self._token(each): each.logprob for each in (token, *token.top)}


async def _without_answer(events: TextEvents) -> TextEvents:
    """Without the one token that is generated only because a sample cannot have none."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, SampleBegan | PromptScored):
                yield event
            elif isinstance(event, SampleEnded):
                usage = replace(event.usage, num_output_tokens=0)
                yield replace(event, usage=usage, token_ids=(), reason=FinishReason.LENGTH, stop_reason=None)


def _candidates(token: TokenText, num_top: int) -> JSONObject:
    """By id, the prompt's own token first. Its rank is known when it is one of the most probable."""
    ranks = {each.token_id: rank for rank, each in enumerate(token.top, start=1)}
    return {
        str(each.token_id): {
            "logprob": each.logprob,
            "rank": ranks.get(each.token_id),
            "decoded_token": each.text,
        }
        for each in (token, *token.top[:num_top])
    }


def _unfinished(logprobs: JSONObject | None) -> JSONObject:
    return {"logprobs": logprobs, "finish_reason": None}


def _usage(num_prompt_tokens: int, num_output_tokens: int) -> JSONObject:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_prompt_tokens + num_output_tokens,
    }
