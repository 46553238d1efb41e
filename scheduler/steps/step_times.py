"""The time that a worker takes for a step, learned from its earlier steps.

Steps are compared by their work: the tokens that they compute, each weighted by the context that it attends to.
"""

from collections.abc import Iterable

# Number of tokens to which a token attends in about the time of all its other arithmetic. It differs between models, but a rough
# value is enough: only powers of two are compared, and only to distinguish a hung worker from a slow one.
_EQUAL_CONTEXT = 1024
# A new worker's first steps touch memory and compile kernels for the first time. With fewer steps, nothing is predicted.
_NUM_FIRST_STEPS = 8
# Weight of the newest step in a mean. The mean follows a machine that becomes busy within a dozen steps.
_WEIGHT = 0.2


def work_of(chunks: Iterable[tuple[int, int]]) -> int:
    """Return the work of one step. Each chunk (start, num_tokens) computes tokens [start, start + num_tokens) of a sequence."""
    return sum(num_tokens * (_EQUAL_CONTEXT + start) for start, num_tokens in chunks)


class StepTimes:
    """Exponentially weighted means of step times, one for each power of two of work."""

    def __init__(self) -> None:
        self._mean_s: dict[int, float] = {}
        self._num_steps = 0

    def learn_step_time(self, work: int, seconds: float) -> None:
        """Learn from a step that took `seconds`. A step without work is ignored."""
        if work == 0:
            return
        size = work.bit_length()
        mean_s = self._mean_s.get(size, seconds)
        self._mean_s[size] = mean_s + _WEIGHT * (seconds - mean_s)
        self._num_steps += 1

    def predict_s(self, work: int) -> float | None:
        """Return the predicted time of a step of this work, in seconds; None until eight steps are known.

        The time of an unseen size is scaled linearly from smaller known sizes. Below the smallest known size, the time of a larger
        one is used, since an overestimate does less harm.
        """
        if self._num_steps < _NUM_FIRST_STEPS:
            return None
        size = work.bit_length()
        if size in self._mean_s:
            return self._mean_s[size]
        return min(mean_s * 2.0 ** max(0, size - known) for known, mean_s in self._mean_s.items())
