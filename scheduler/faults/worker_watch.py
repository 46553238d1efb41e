"""Whether a worker still lives and gets on: it must be heard of, and its oldest step must end in about the time predicted for it.

A process that stands still says nothing. One whose engine hangs still beats, but its step never ends; that a step is merely slow
is told by what such steps have taken before. Counts the ticks it is given and reads no clock: when the scheduler itself was kept
from running, a worker whose messages only wait to be read has missed none.
"""

from dataclasses import dataclass
from typing import NamedTuple

from scheduler.steps.step_times import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a worker may keep the scheduler waiting. To be wrong costs no answer, only the computation done again elsewhere."""

    silence_s: float
    step_time_multiple: float
    """A step may take so many times what is predicted for it, and never less than `silence_s`: a machine that is too busy to
    beat once in that time is too busy for a step as well."""
    stalled_step_s: float
    """The longest for any step, and for those that nothing is known about."""

    def for_step(self, predicted_s: float | None) -> float:
        if predicted_s is None:
            return self.stalled_step_s
        return min(max(self.step_time_multiple * predicted_s, self.silence_s), self.stalled_step_s)


class Task(NamedTuple):
    """What a worker is at."""

    number: int
    """Another one for each."""
    work: int | None
    """None where nobody can say how long it takes."""


class WorkerWatch:
    def __init__(self, patience: Patience, tick_s: float) -> None:
        """`tick` is called every `tick_s`, as far as this process gets to run."""
        self._patience = patience
        self._tick_s = tick_s
        self._times = StepTimes()
        self._silent_s = 0.0
        self._task: Task | None = None
        self._task_s = 0.0

    def record_sign_of_life(self) -> None:
        self._silent_s = 0.0

    def record_step_time(self, work: int, seconds: float) -> None:
        """A step of this much work took that long."""
        self._times.learn_step_time(work, seconds)

    def tick(self, task: Task | None) -> str | None:
        """Given the oldest thing that the worker has not ended: why it is to be taken for lost, if it is."""
        self._silent_s += self._tick_s
        self._task_s = self._task_s + self._tick_s if task == self._task else 0.0
        self._task = task
        if self._silent_s > self._patience.silence_s:
            return f"nothing was heard for {self._silent_s:g} s"
        if task is None:
            return None
        predicted_s = None if task.work is None else self._times.predict_s(task.work)
        if self._task_s <= self._patience.for_step(predicted_s):
            return None
        expected = "" if predicted_s is None else f", predicted were {predicted_s:.3f} s"
        return f"no step or load was finished for {self._task_s:g} s{expected}"
