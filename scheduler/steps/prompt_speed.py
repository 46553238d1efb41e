"""How fast a worker computes prompts, learned from the steps it has run."""

# Of a worker that has computed no long prompt yet. A GPU is faster, a small CPU slower.
_UNKNOWN_TOKENS_PER_S = 5_000.0
# Steps with fewer tokens of prompts, or mostly other ones, tell what a step costs rather than what a token does.
_MIN_PROMPT_TOKENS = 64
_MIN_PROMPT_SHARE = 0.75
# Of what was learned, this much remains with each further step: a machine that becomes busy is followed within some ten steps.
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
        """What it has probably computed of the step that runs."""
        return round((now_s - self._busy_since_s) * self.tokens_per_s)

    def record_step_start(self, now_s: float) -> None:
        """Record that a worker that did nothing was sent a step."""
        self._busy_since_s = now_s

    def record_step_end(self, num_tokens: int, num_sampled: int, now_s: float) -> None:
        """Record that the oldest step ended and the next one began.

        Each sampled token is one that decodes, or the end of a prompt.
        """
        seconds, self._busy_since_s = now_s - self._busy_since_s, now_s
        num_prompt_tokens = num_tokens - num_sampled
        if seconds > 0 and num_prompt_tokens >= max(_MIN_PROMPT_TOKENS, _MIN_PROMPT_SHARE * num_tokens):
            self._num_tokens = _KEPT * self._num_tokens + num_tokens
            self._seconds = _KEPT * self._seconds + seconds
