"""A bound on the log-probabilities of an answer that is given whole: all of them are in memory until it has ended."""

from collections.abc import Sequence

from gateway.errors import InvalidRequestError
from gateway.text_events import TokenText
from gateway.text_request import TextRequest

MAX_CANDIDATES = 1 << 19
"""Tokens and their alternatives, in one answer: about 250 MB."""


def check_prompt_logprobs(requests: Sequence[TextRequest]) -> None:
    """Raise InvalidRequestError where those of the prompts are too many."""
    num_candidates = sum(
        request.num_samples * len(request.prompt_token_ids) * (1 + request.sampling.num_prompt_logprobs)
        for request in requests
        if request.sampling.num_prompt_logprobs is not None
    )
    if num_candidates > MAX_CANDIDATES:
        raise InvalidRequestError(
            f"These are {num_candidates} log-probabilities of prompt tokens and their alternatives, and at most "
            f"{MAX_CANDIDATES} are possible. Ask for fewer alternatives, choices or prompts.",
            param="prompt_logprobs",
        )


class AnswerLogprobs:
    """Counts those of an answer as they come."""

    def __init__(self) -> None:
        self._num_candidates = 0

    def count(self, tokens: Sequence[TokenText]) -> None:
        """Raise InvalidRequestError with the token that is too many."""
        self._num_candidates += sum(1 + len(token.top) for token in tokens)
        if self._num_candidates > MAX_CANDIDATES:
            raise InvalidRequestError(
                f"The answer has more than {MAX_CANDIDATES} log-probabilities of tokens and their alternatives, the most "
                "that is possible without a stream. Set stream to true, or ask for fewer tokens or alternatives.",
                param="logprobs",
            )
