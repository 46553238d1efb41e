"""Collects the log-probabilities of a prompt, which come in pieces and once for all its samples, as its tokens with text."""

from gateway.inference import PromptLogprobs
from gateway.sample_text import plain_token, token_text
from gateway.text_events import PromptScored
from gateway.text_request import TextRequest
from gateway.tokenizer import Tokenizer


class PromptScore:
    def __init__(self, request: TextRequest, tokenizer: Tokenizer) -> None:
        self._waiting: list[int] = []
        """Samples that have begun and were not told."""
        self._prompt = request.prompt_token_ids
        self._tokenizer = tokenizer
        self._tokens = [plain_token(tokenizer, self._prompt[0], None)]

    def push(self, event: PromptLogprobs) -> None:
        token_ids = self._prompt[event.start : event.start + len(event.logprobs)]
        assert event.start == len(self._tokens) and len(token_ids) == len(event.logprobs), "in order, without holes"
        self._tokens += [
            token_text(self._tokenizer, token_id, logprobs)
            for token_id, logprobs in zip(token_ids, event.logprobs, strict=True)
        ]

    def begin(self, index: int) -> None:
        """A sample has begun."""
        self._waiting.append(index)

    def whole(self) -> list[PromptScored]:
        """For the samples that were not told yet, once the prompt is at its end."""
        if len(self._tokens) < len(self._prompt):
            return []
        tokens = self._tokens
        indexes, self._waiting = self._waiting, []
        return [PromptScored(index=index, tokens=tokens) for index in indexes]
