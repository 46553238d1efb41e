"""How long a worker takes for a step, learned from the steps it has run and predicted from what the next one computes.

Steps are compared by their work: the tokens they compute, each weighed by the context it attends to.
"""

from collections.abc import Iterable

# A token attends to so many others in about the time that all its other arithmetic takes. Only roughly, and it differs between
# models: what is compared are powers of two, and what is told from slowness is a worker that stands still.
_EQUAL_CONTEXT = 1024
# A new worker's first steps touch memory and compile kernels for the first time; nothing is predicted from fewer.
_NUM_FIRST_STEPS = 8
# The weight of the newest step in a mean: a machine that becomes busy is followed within a dozen steps.
_WEIGHT = 0.2


def work_of(chunks: Iterable[tuple[int, int]]) -> int:
    """Of one step. Each chunk computes tokens [start, start + num_tokens) of a sequence."""
    return sum(num_tokens * (_EQUAL_CONTEXT + start) for start, num_tokens in chunks)


class StepTimes:
    """Exponentially weighted means, one for each power of two of work."""

    def __init__(self) -> None:
        self._mean_s: dict[int, float] = {}
        self._num_steps = 0

    def learn_step_time(self, work: int, seconds: float) -> None:
        """Learn from a step that took so long. One without work says nothing about others."""
        if work == 0:
            return
        size = work.bit_length()
        mean_s = self._mean_s.get(size, seconds)
        self._mean_s[size] = mean_s + _WEIGHT * (seconds - mean_s)
        self._num_steps += 1

    def predict_s(self, work: int) -> float | None:
        """Return how long a step of so much work will take; None until eight steps are known.

        Unseen sizes are scaled linearly from smaller known ones; below those, the time of a larger one stands: overestimates
        are preferred.
        """
        if self._num_steps < _NUM_FIRST_STEPS:
            return None
        size = work.bit_length()
        if size in self._mean_s:
            return self._mean_s[size]
        return min(mean_s * 2.0 ** max(0, size - known) for known, mean_s in self._mean_s.items())
