"""Log-probabilities of the tokens of answers and prompts: joined with the tokens' text, collected, and limited in number."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from gateway.answers.text_events import PromptScored, TokenText
from gateway.answers.text_request import TextRequest
from gateway.errors import InvalidRequestError
from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.events import PromptLogprobs
from pagoda.wire.logprobs import TokenLogprobs

# JSON has no infinity; vLLM sends this value instead.
LOWEST_LOGPROB = -9999.0
MAX_CANDIDATES = 1 << 19
"""Maximum number of tokens and alternatives in one answer. They take about 250 MB."""
MAX_PROMPT_SCORES = 300_000
"""Maximum number of prompt log-probabilities in one response, with alternatives and over all choices. Each is about 70 bytes
of JSON."""
_SHORT_PROMPT = 256


def token_text(tokenizer: Tokenizer, token_id: int, logprobs: TokenLogprobs) -> TokenText:
    """Return the token with its text, its log-probability and its alternatives."""
    top = tuple(plain_token(tokenizer, each, logprob) for each, logprob in logprobs.top)
    return replace(plain_token(tokenizer, token_id, logprobs.logprob), top=top)


def plain_token(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> TokenText:
    """Return the token with its text and its log-probability, without alternatives."""
    text = tokenizer.token_text(token_id)
    # Special tokens have no bytes; a client can show their name instead.
    utf8 = tokenizer.token_bytes(token_id) or text.encode()
    bounded = None if logprob is None else max(logprob, LOWEST_LOGPROB)
    return TokenText(token_id=token_id, text=text, utf8=utf8, logprob=bounded)


def token_object(token: TokenText, name_of: Callable[[TokenText], str] = attrgetter("text")) -> dict[str, Any]:
    """Return the token with its alternatives in the form of OpenAI's chats and responses, and of Ollama's API."""
    top = [_scored(alternative, name_of) for alternative in token.top]
    return _scored(token, name_of) | {"top_logprobs": top}


def _scored(token: TokenText, name_of: Callable[[TokenText], str]) -> dict[str, Any]:
    return {"token": name_of(token), "logprob": token.logprob, "bytes": list(token.utf8)}


class AnswerLogprobs:
    """A counter of the log-probabilities of an answer that is not streamed: all of them stay in memory until its end."""

    def __init__(self) -> None:
        self._num_candidates = 0

    def count_logprobs(self, tokens: Sequence[TokenText]) -> None:
        """Count the log-probabilities of the tokens. Raises InvalidRequestError once they exceed MAX_CANDIDATES."""
        self._num_candidates += sum(1 + len(token.top) for token in tokens)
        if self._num_candidates > MAX_CANDIDATES:
            raise InvalidRequestError(
                f"The answer has more than {MAX_CANDIDATES} log-probabilities of tokens and alternatives, the limit for an "
                "answer that is not streamed. Set `stream` to true, or request fewer tokens or alternatives.",
                param="logprobs",
            )


class PromptScore:
    """A collector of a prompt's log-probabilities, which arrive in pieces, once for all of its samples."""

    def __init__(self, request: TextRequest, tokenizer: Tokenizer) -> None:
        self._waiting: list[int] = []
        """Samples that have begun and have not received the scores."""
        self._prompt = request.prompt_token_ids
        self._tokenizer = tokenizer
        self._logprobs: list[TokenLogprobs] = []
        """Log-probabilities of the prompt's tokens from the second on."""
        self._tokens: list[TokenText] | None = None

    def add_scores(self, event: PromptLogprobs) -> None:
        assert event.start == 1 + len(self._logprobs), "pieces arrive in order, without gaps"
        self._logprobs += event.logprobs

    def begin_sample(self, index: int) -> None:
        """Record that a sample has begun. It receives the scores once they are complete."""
        self._waiting.append(index)

    async def whole_scores(self) -> list[PromptScored]:
        """Return the scores for each sample that has not received them, once the whole prompt is scored.

        A long prompt's tokens are built in a thread: with alternatives there may be half a million.
        """
        if not self._waiting or 1 + len(self._logprobs) < len(self._prompt):
            return []
        if self._tokens is None:
            is_short = len(self._prompt) <= _SHORT_PROMPT
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


def check_prompt_scores(requests: Sequence[TextRequest]) -> None:
    """Raise InvalidRequestError if all prompts together have too many log-probabilities for one response."""
    num_scores = sum(
        request.num_samples * len(request.prompt_token_ids) * (1 + request.sampling.params.num_prompt_logprobs)
        for request in requests
        if request.sampling.params.num_prompt_logprobs is not None
    )
    if num_scores > MAX_PROMPT_SCORES:
        raise InvalidRequestError(
            f"`prompt_logprobs`: choices × prompt tokens × candidates must be at most {MAX_PROMPT_SCORES} in one response "
            f"(got {num_scores}); request fewer choices, tokens or alternatives.",
            param="prompt_logprobs",
        )
