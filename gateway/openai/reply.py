"""The conversion of text events into OpenAI's response objects: one reply per HTTP request, streamed in chunks or whole.

This module has what chat completions and completions share; chat_reply.py and completion_reply.py have the rest.
"""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from gateway.answers.logprobs import AnswerLogprobs, check_prompt_scores
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
from gateway.answers.whole_answer import WholeAnswer
from gateway.models.served_model import ServedModel
from gateway.openai.generation_schema import GenerationRequest, StreamOptions
from gateway.parsing.parts import AnswerPart

JSONObject = dict[str, Any]
"""A JSON object that orjson encodes. It may contain `orjson.Fragment`s."""
# Encoding so many tokens of a scored prompt takes about 5 ms.
_TOKENS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyForm:
    """The parts of a reply that the client has asked for, besides the text."""

    model: str
    request_id: str | None = None
    """The client's own id of the request, which the response's id contains."""
    logprobs: bool = False
    num_prompt_logprobs: int | None = None
    """Number of alternatives to each token of the prompt; None for no log-probabilities of the prompt."""
    token_ids: bool = False
    tokens_as_ids: bool = False
    """True if log-probabilities name tokens as `token_id:ID`, since not every token has a text of its own."""
    usage: bool = False
    """True if a stream ends with the usage. A whole response always has it."""
    continuous_usage: bool = False
    """True if each chunk has the usage so far."""


def reply_form(body: GenerationRequest, model: ServedModel, *, logprobs: bool) -> ReplyForm:
    """Return the form of the reply that the body asks for."""
    options = body.stream_options or StreamOptions()
    return ReplyForm(
        model=body.model or model.name,
        request_id=body.request_id,
        logprobs=logprobs,
        num_prompt_logprobs=body.prompt_logprobs,
        token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
    )


@dataclass(slots=True)
class Choice:
    """The state of one choice while its text is generated."""

    request: TextRequest
    echo: str | None = None
    """The prompt's text, if it precedes the answer."""
    answer: WholeAnswer = field(default_factory=WholeAnswer)
    """The answer of a whole reply. A stream keeps none."""
    logprobs: list[TokenText] = field(default_factory=list)
    num_characters: int = 0
    num_token_ids: int = 0
    """Number of token ids that the stream has shown."""
    prompt_logprobs: Sequence[TokenText] = ()
    end: SampleEnded | None = None


class Reply(ABC):
    """The reply to one HTTP request. With n samples per prompt, choice i belongs to prompt i // n."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, form: ReplyForm, requests: Sequence[TextRequest]) -> None:
        """Raise InvalidRequestError if the reply would have too many log-probabilities of prompts."""
        check_prompt_scores(requests)
        self._form = form
        self._id = f"{self.id_prefix}-{form.request_id or uuid.uuid4().hex}"
        self._created = int(time.time())
        self._num_prompt_tokens = sum(len(request.prompt_token_ids) for request in requests)
        self._num_samples = requests[0].num_samples
        self._candidates: dict[int, orjson.Fragment] = {}
        """Encoded candidates by the id() of the tokens they were made from, which a choice keeps alive."""
        self._choices = [Choice(request) for request in requests for _ in range(request.num_samples)]

    async def encode_whole(self, events: TextEvents) -> bytes:
        """Return the response's JSON."""
        logprobs = AnswerLogprobs()
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    choice = self._choices[event.index]
                    choice.answer.add_parts(event.answer_parts)
                    choice.logprobs.extend(event.logprobs)
                    logprobs.count_logprobs(event.logprobs)
                elif isinstance(event, PromptScored):
                    self._choices[event.index].prompt_logprobs = event.tokens
                    await self._encode_candidates(event.tokens)
                elif isinstance(event, SampleEnded):
                    self._choices[event.index].end = event
        is_long = any(choice.logprobs or choice.prompt_logprobs for choice in self._choices)
        return await asyncio.to_thread(self._encode_choices) if is_long else self._encode_choices()

    def _encode_choices(self) -> bytes:
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        return orjson.dumps(
            self._envelope(self.whole_object, choices) | self._whole_extras() | {"usage": self._usage()}
        )

    async def stream_chunks(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        """Yield the chunks: the begin, the text and the end of each choice, and last the usage if it was asked for."""
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
                        num_prompt_tokens = len(self._choices[event.index].request.prompt_token_ids)
                        chunk["usage"] = _usage(num_prompt_tokens, num_tokens)
                    yield chunk
        if self._form.usage:
            yield self._envelope(self.chunk_object, []) | {"usage": self._usage()}

    def _whole_extras(self) -> JSONObject:
        """Return the fields beside the choices."""
        return {}

    @abstractmethod
    def _begin_choice(self, choice: Choice) -> JSONObject | None:
        """Return the payload that begins a choice, or None if there is nothing before its text."""

    def _prompt_scored(self, choice: Choice, tokens: Sequence[TokenText]) -> JSONObject | None:
        """Return a stream's payload with the prompt's log-probabilities, or None if the endpoint has none."""
        return None

    @abstractmethod
    def _delta(self, text: str, parts: Sequence[AnswerPart]) -> JSONObject:
        """Return a stream's payload with more text. If the output is parsed, `parts` has the text and all else."""

    def _finish_reason(self, end: SampleEnded) -> str:
        return end.reason.value

    @abstractmethod
    def _whole_text(self, choice: Choice) -> JSONObject: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject: ...

    def _chunk_choice(self, event: TextEvent) -> tuple[JSONObject | None, int]:
        """Return the choice of the event's chunk, or None for no chunk, and the number of the sample's tokens so far."""
        choice, common = self._choices[event.index], {"index": event.index}
        match event:
            case TextDelta():
                logprobs = self._logprobs(event.logprobs, choice.num_characters) if self._form.logprobs else None
                choice.num_characters += len(event.text)
                delta = {**common, **self._delta(event.text, event.parts), "logprobs": logprobs, "finish_reason": None}
                if self._form.token_ids:
                    delta |= self._next_token_ids(choice, event.token_ids)
                return delta, event.num_tokens
            case SampleBegan():
                begin = self._begin_choice(choice)
                return None if begin is None else common | begin | unfinished(None), 0
            case PromptScored():
                scored = self._prompt_scored(choice, event.tokens)
                return None if scored is None else common | scored, 0
            case SampleEnded():
                choice.end = event
                reason = self._finish_reason(event)
                finish = {"logprobs": None, "finish_reason": reason, "stop_reason": event.stop_reason}
                # A token without text has not been shown yet.
                rest = event.token_ids[choice.num_token_ids :]
                shown = self._next_token_ids(choice, rest) if self._form.token_ids else {}
                return common | self._delta("", ()) | finish | shown, event.usage.num_output_tokens

    def _next_token_ids(self, choice: Choice, token_ids: Sequence[int]) -> JSONObject:
        choice.num_token_ids += len(token_ids)
        return {"token_ids": list(token_ids)}

    def _whole_choice(self, index: int, choice: Choice) -> JSONObject:
        assert choice.end is not None, "a stream of events ends each sample"
        token_ids = {"token_ids": list(choice.end.token_ids)} if self._form.token_ids else {}
        return {
            "index": index,
            **self._whole_text(choice),
            "logprobs": self._whole_logprobs(choice) if self._form.logprobs else None,
            "finish_reason": self._finish_reason(choice.end),
            "stop_reason": choice.end.stop_reason,
            **token_ids,
        }

    def _whole_logprobs(self, choice: Choice) -> JSONObject:
        return self._logprobs(choice.logprobs, 0)

    async def _encode_candidates(self, tokens: Sequence[TokenText]) -> None:
        """Encode the prompt's log-probabilities in vLLM's form: candidates by token id for each token, none for the first.

        This is done once for all samples of a prompt, and in pieces, between which other streams continue.
        """
        num_top = self._form.num_prompt_logprobs
        if num_top is None or id(tokens) in self._candidates:
            return
        encoded = [b"null"]
        for start in range(1, len(tokens), _TOKENS_AT_ONCE):
            await asyncio.sleep(0)
            encoded += [orjson.dumps(_candidates(token, num_top)) for token in tokens[start : start + _TOKENS_AT_ONCE]]
        self._candidates[id(tokens)] = orjson.Fragment(b"[" + b",".join(encoded) + b"]")

    def _prompt_logprobs(self, choice: Choice) -> JSONObject:
        if self._form.num_prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": self._candidates[id(choice.prompt_logprobs)]}

    def _token_name(self, token: TokenText) -> str:
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

    def _ends(self) -> list[SampleEnded]:
        return [choice.end for choice in self._choices if choice.end is not None]

    def _usage(self) -> JSONObject:
        """Return the usage of all choices. Each prompt counts once, even if it has several samples."""
        ends = self._ends()
        num_cached = sum(end.usage.num_cached_tokens for end in ends if end.index % self._num_samples == 0)
        num_output = sum(end.usage.num_output_tokens for end in ends)
        return _usage(self._num_prompt_tokens, num_output) | {"prompt_tokens_details": {"cached_tokens": num_cached}}


def _candidates(token: TokenText, num_top: int) -> JSONObject:
    """Return the candidates by id, the prompt's own token first. Its rank is null unless it is among the most probable."""
    ranks = {each.token_id: rank for rank, each in enumerate(token.top, start=1)}
    return {
        str(each.token_id): {
            "logprob": each.logprob,
            "rank": ranks.get(each.token_id),
            "decoded_token": each.text,
        }
        for each in (token, *token.top[:num_top])
    }


def unfinished(logprobs: JSONObject | None) -> JSONObject:
    """Return the last fields of a choice whose text continues."""
    return {"logprobs": logprobs, "finish_reason": None}


def _usage(num_prompt_tokens: int, num_output_tokens: int) -> JSONObject:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_prompt_tokens + num_output_tokens,
    }
