"""Collects the log-probabilities of a prompt, which come in pieces and once for all its samples, as its tokens with text."""

import asyncio

from gateway.answers.sample_text import plain_token, token_text
from gateway.answers.text_events import PromptScored, TokenText
from gateway.answers.text_request import TextRequest
from gateway.upstream.inference import PromptLogprobs
from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.logprobs import TokenLogprobs

SHORT_PROMPT = 256


class PromptScore:
    def __init__(self, request: TextRequest, tokenizer: Tokenizer) -> None:
        self._waiting: list[int] = []
        """Samples that have begun and were not told."""
        self._prompt = request.prompt_token_ids
        self._tokenizer = tokenizer
        self._logprobs: list[TokenLogprobs] = []
        """Those of the tokens from the second on."""
        self._tokens: list[TokenText] | None = None

    def push(self, event: PromptLogprobs) -> None:
        assert event.start == 1 + len(self._logprobs), "in order, without holes"
        self._logprobs += event.logprobs

    def begin(self, index: int) -> None:
        """A sample has begun."""
        self._waiting.append(index)

    async def whole(self) -> list[PromptScored]:
        """For the samples that were not told yet, once the prompt is at its end.

        A long prompt's tokens are made in a thread: there may be half a million, with their alternatives.
        """
        if not self._waiting or 1 + len(self._logprobs) < len(self._prompt):
            return []
        if self._tokens is None:
            is_short = len(self._prompt) <= SHORT_PROMPT
            self._tokens = self._scored() if is_short else await asyncio.to_thread(self._scored)
        tokens = self._tokens
        indexes, self._waiting = self._waiting, []
        return [PromptScored(index=index, tokens=tokens) for index in indexes]

    def _scored(self) -> list[TokenText]:
        first, *others = self._prompt
        tokens = [plain_token(self._tokenizer, first, None)]
        tokens += [
            token_text(self._tokenizer, token_id, logprobs)
            for token_id, logprobs in zip(others, self._logprobs, strict=True)
        ]
        return tokens
