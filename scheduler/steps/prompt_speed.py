"""The speed at which a worker computes prompts, learned from its steps."""

# Speed of a worker that has not computed a long prompt yet. A GPU is faster, a small CPU slower.
_UNKNOWN_TOKENS_PER_S = 5_000.0
# Steps with fewer prompt tokens, or a smaller share of them, show the cost of a step rather than that of a token.
_MIN_PROMPT_TOKENS = 64
_MIN_PROMPT_SHARE = 0.75
# Weight that the past keeps with each further step. The speed follows a machine that becomes busy within about ten steps.
_KEPT = 0.9


class PromptSpeed:
    def __init__(self) -> None:
        self._num_tokens = 0.0
        self._seconds = 0.0
        self._busy_since_s = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self._num_tokens / self._seconds if self._seconds else _UNKNOWN_TOKENS_PER_S

    def tokens_since_begin(self, now_s: float) -> int:
        """Return the number of tokens that the running step has probably computed."""
        return round((now_s - self._busy_since_s) * self.tokens_per_s)

    def record_step_start(self, now_s: float) -> None:
        """Record that an idle worker was sent a step."""
        self._busy_since_s = now_s

    def record_step_end(self, num_tokens: int, num_sampled: int, now_s: float) -> None:
        """Record that the oldest step ended and the next one began.

        Each sampled token belongs to a decode or ends a prompt.
        """
        seconds, self._busy_since_s = now_s - self._busy_since_s, now_s
        num_prompt_tokens = num_tokens - num_sampled
        if seconds > 0 and num_prompt_tokens >= max(_MIN_PROMPT_TOKENS, _MIN_PROMPT_SHARE * num_tokens):
            self._num_tokens = _KEPT * self._num_tokens + num_tokens
            self._seconds = _KEPT * self._seconds + seconds
