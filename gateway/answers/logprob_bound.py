"""A bound on the log-probabilities of an answer that is given whole: all of them are in memory until it has ended."""

from collections.abc import Sequence

from gateway.answers.text_events import TokenText
from gateway.errors import InvalidRequestError

MAX_CANDIDATES = 1 << 19
"""Tokens and their alternatives, in one answer: about 250 MB."""


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
