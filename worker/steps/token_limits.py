"""The tokens that a request allows or bans by their ids: allowed_token_ids and bad_words.

They depend on the request and the generated tokens only, so that nothing is replayed when a sequence resumes on another worker.

Legend: W int32 words of a mask (constraints/masks.py).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pagoda.wire.sampling import SamplingParams
from worker.constraints.masks import mask_of


class TokenLimits:
    """The limits of one sequence. They do not change."""

    def __init__(self, sampling: SamplingParams, vocab_size: int) -> None:
        self.allowed_W: NDArray[np.int32] | None = None
        """Mask of the allowed tokens; None if all are allowed."""
        if sampling.allowed_token_ids:
            self.allowed_W = mask_of(sampling.allowed_token_ids, vocab_size)
        self._always_banned = [word[-1] for word in sampling.bad_words if len(word) == 1]
        self._banned_after: defaultdict[int, list[tuple[list[int], int]]] = defaultdict(list)
        """The longer bad words by the last but one of their tokens: the tokens before the last one, and the last one."""
        for *before, last in sampling.bad_words:
            if before:
                self._banned_after[before[-1]].append((before, last))

    @classmethod
    def of(cls, sampling: SamplingParams, vocab_size: int) -> "TokenLimits | None":
        """Return the limits of a request, or None if it has none."""
        return cls(sampling, vocab_size) if sampling.allowed_token_ids or sampling.bad_words else None

    def banned_ids(self, token_ids: Sequence[int], num_prompt_tokens: int) -> NDArray[np.int32]:
        """Return the tokens that would complete a bad word after these tokens of a sequence. Its prompt does not count."""
        banned, num_output = self._always_banned, len(token_ids) - num_prompt_tokens
        if num_output and (candidates := self._banned_after.get(token_ids[-1])):
            banned = banned + [
                last for before, last in candidates if len(before) <= num_output and token_ids[-len(before) :] == before
            ]
        return np.array(banned, np.int32)
