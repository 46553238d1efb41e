"""Log-probabilities of an answer's tokens and of a prompt's: given their text, collected, and bounded in number."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gateway.answers.text_events import PromptScored, TokenText
from gateway.answers.text_request import TextRequest
from gateway.errors import InvalidRequestError
from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.events import PromptLogprobs
from pagoda.wire.logprobs import TokenLogprobs

# JSON has no infinity; this is what vLLM says in its place.
LOWEST_LOGPROB = -9999.0
MAX_CANDIDATES = 1 << 19
"""Tokens and their alternatives, in one answer: about 250 MB."""
# Of the prompts' tokens and their alternatives, over all choices of a response. Each is some 70 bytes of JSON.
MAX_PROMPT_SCORES = 300_000
_SHORT_PROMPT = 256


def token_text(tokenizer: Tokenizer, token_id: int, logprobs: TokenLogprobs) -> TokenText:
    top = tuple(plain_token(tokenizer, each, logprob) for each, logprob in logprobs.top)
    return replace(plain_token(tokenizer, token_id, logprobs.logprob), top=top)


def plain_token(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> TokenText:
    text = tokenizer.token_text(token_id)
    # Special tokens have no bytes of their own; their name is what a client can show.
    utf8 = tokenizer.token_bytes(token_id) or text.encode()
    bounded = None if logprob is None else max(logprob, LOWEST_LOGPROB)
    return TokenText(token_id=token_id, text=text, utf8=utf8, logprob=bounded)


class AnswerLogprobs:
    """Counts those of an answer that is given whole: all of them are in memory until it has ended."""

    def __init__(self) -> None:
        self._num_candidates = 0

    def count_logprobs(self, tokens: Sequence[TokenText]) -> None:
        """Raise InvalidRequestError with the token that is too many."""
        self._num_candidates += sum(1 + len(token.top) for token in tokens)
        if self._num_candidates > MAX_CANDIDATES:
            raise InvalidRequestError(
                f"The answer has more than {MAX_CANDIDATES} log-probabilities of tokens and their alternatives, the most "
                "that is possible without a stream. Set stream to true, or ask for fewer tokens or alternatives.",
                param="logprobs",
            )


class PromptScore:
    """Collects the log-probabilities of a prompt, which come in pieces and once for all its samples, as tokens with text."""

    def __init__(self, request: TextRequest, tokenizer: Tokenizer) -> None:
        self._waiting: list[int] = []
        """Samples that have begun and were not told."""
        self._prompt = request.prompt_token_ids
        self._tokenizer = tokenizer
        self._logprobs: list[TokenLogprobs] = []
        """Those of the tokens from the second on."""
        self._tokens: list[TokenText] | None = None

    def add_scores(self, event: PromptLogprobs) -> None:
        assert event.start == 1 + len(self._logprobs), "in order, without holes"
        self._logprobs += event.logprobs

    def begin_sample(self, index: int) -> None:
        """Note that a sample has begun, which is to get the scores once they are whole."""
        self._waiting.append(index)

    async def whole_scores(self) -> list[PromptScored]:
        """Return the scores for each sample that has not got them yet, once the prompt is at its end.

        A long prompt's tokens are made in a thread: there may be half a million, with their alternatives.
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
    """Raise InvalidRequestError where the log-probabilities of all prompts together would be too many for one response."""
    num_scores = sum(
        request.num_samples * len(request.prompt_token_ids) * (1 + request.sampling.params.num_prompt_logprobs)
        for request in requests
        if request.sampling.params.num_prompt_logprobs is not None
    )
    if num_scores > MAX_PROMPT_SCORES:
        raise InvalidRequestError(
            f"prompt_logprobs: choices times prompt tokens times candidates are {num_scores}, at most {MAX_PROMPT_SCORES} "
            "log-probabilities of prompts may be in one response: ask for fewer choices, tokens or alternatives",
            param="prompt_logprobs",
        )
