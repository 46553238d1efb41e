"""The conversion of text events into the response objects of completions, which may begin with the prompt's text."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from gateway.answers.text_events import PromptScored, SampleBegan, SampleEnded, TextEvents, TokenText
from gateway.answers.text_request import TextRequest
from gateway.models.served_model import ServedModel
from gateway.openai.reply import Choice, JSONObject, Reply, reply_form, unfinished
from gateway.openai.schemas import CompletionRequest
from gateway.parsing.parts import AnswerPart
from pagoda.wire.finished import FinishReason


class CompletionReply(Reply):
    """The reply to a completion. With `echo` the text of each prompt precedes its completions."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, body: CompletionRequest, model: ServedModel, requests: Sequence[TextRequest]) -> None:
        super().__init__(reply_form(body, model, logprobs=body.logprobs is not None), requests)
        self._nothing_but_echo = body.max_tokens == 0
        if body.echo:
            for index, request in enumerate(requests):
                self._begin_with(_echo(request, model), index)

    async def encode_whole(self, events: TextEvents) -> bytes:
        return await super().encode_whole(self._wanted(events))

    def stream_chunks(self, events: TextEvents) -> AsyncGenerator[JSONObject, None]:
        return super().stream_chunks(self._wanted(events))

    def _begin_with(self, echo: str, prompt_index: int) -> None:
        for choice in self._choices[prompt_index * self._num_samples : (prompt_index + 1) * self._num_samples]:
            choice.echo = echo
            choice.num_characters = len(echo)

    def _wanted(self, events: TextEvents) -> TextEvents:
        return _without_answer(events) if self._nothing_but_echo else events

    def _begin_choice(self, choice: Choice) -> JSONObject | None:
        """Return a payload with the echo, unless the echo waits for its log-probabilities."""
        echo = "" if choice.echo is None or self._form.logprobs else choice.echo
        return {"text": echo, **self._prompt_token_ids(choice)} if echo or self._form.token_ids else None

    def _prompt_scored(self, choice: Choice, tokens: Sequence[TokenText]) -> JSONObject | None:
        if choice.echo is None or not self._form.logprobs:
            return None
        return {"text": choice.echo, **unfinished(self._logprobs(tokens, 0))}

    def _whole_logprobs(self, choice: Choice) -> JSONObject:
        shown = () if choice.echo is None else choice.prompt_logprobs
        return self._logprobs([*shown, *choice.logprobs], 0)

    def _delta(self, text: str, parts: Sequence[AnswerPart]) -> JSONObject:
        return {"text": text}

    def _whole_text(self, choice: Choice) -> JSONObject:
        return {
            "text": (choice.echo or "") + choice.answer.text,
            **self._prompt_token_ids(choice),
            **self._prompt_logprobs(choice),
        }

    def _prompt_token_ids(self, choice: Choice) -> JSONObject:
        return {"prompt_token_ids": list(choice.request.prompt_token_ids)} if self._form.token_ids else {}

    def _logprobs(self, tokens: Sequence[TokenText], num_characters_before: int) -> JSONObject:
        offsets, offset = [], num_characters_before
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "text_offset": offsets,
            "token_logprobs": [token.logprob for token in tokens],
            "tokens": [self._token_name(token) for token in tokens],
            "top_logprobs": [None if token.logprob is None else self._alternatives(token) for token in tokens],
        }

    def _alternatives(self, token: TokenText) -> JSONObject:
        """Return the alternatives and the chosen token, even if that is not among the most probable."""
        return {self._token_name(each): each.logprob for each in (token, *token.top)}


def _echo(request: TextRequest, model: ServedModel) -> str:
    """Return the prompt as the client wrote it, control tokens included. Token ids and cut prompts are decoded instead."""
    if request.prompt_text is not None:
        return request.prompt_text
    return model.tokenizer.decode(request.prompt_token_ids, skip_special_tokens=request.skip_special_tokens)


async def _without_answer(events: TextEvents) -> TextEvents:
    """Yield the events without the one token that is generated only because a sample cannot be empty."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, SampleBegan | PromptScored):
                yield event
            elif isinstance(event, SampleEnded):
                usage = replace(event.usage, num_output_tokens=0)
                yield replace(event, usage=usage, token_ids=(), reason=FinishReason.LENGTH, stop_reason=None)
