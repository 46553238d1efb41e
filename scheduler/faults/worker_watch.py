"""The detection of dead and hung workers: a worker must send messages, and its oldest step must end in about the predicted time.

A stopped process sends nothing. A process whose engine hangs still sends heartbeats, but its step never ends; the times of earlier
steps distinguish a hung step from a slow one. The watch counts ticks and reads no clock: when the scheduler itself was
kept from running, no tick passes, and a worker whose messages wait to be read is not taken for silent.
"""

from dataclasses import dataclass
from typing import NamedTuple

from scheduler.steps.step_times import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Limits of a worker's silence and step times. A false alarm loses no answer; sequences are only computed again elsewhere."""

    silence_s: float
    step_time_multiple: float
    """Factor by which a step may exceed its predicted time. The limit is at least `silence_s`: a machine that is too busy to send
    a heartbeat in that time is too busy for a step as well."""
    stalled_step_s: float
    """Longest time for any step, and the limit for steps without a prediction."""

    def for_step(self, predicted_s: float | None) -> float:
        if predicted_s is None:
            return self.stalled_step_s
        return min(max(self.step_time_multiple * predicted_s, self.silence_s), self.stalled_step_s)


class Task(NamedTuple):
    """The oldest step or load that a worker has not finished."""

    number: int
    """Number that distinguishes the task from the one before it."""
    work: int | None
    """Amount of work. None if its duration cannot be predicted."""


class WorkerWatch:
    def __init__(self, patience: Patience, tick_s: float) -> None:
        """Create the watch of a worker. The owner calls `tick` every `tick_s` seconds in which this process can run."""
        self._patience = patience
        self._tick_s = tick_s
        self._times = StepTimes()
        self._silent_s = 0.0
        self._task: Task | None = None
        self._task_s = 0.0

    def record_sign_of_life(self) -> None:
        self._silent_s = 0.0

    def record_step_time(self, work: int, seconds: float) -> None:
        """Learn how long a step of this much work took."""
        self._times.learn_step_time(work, seconds)

    def tick(self, task: Task | None) -> str | None:
        """Count a tick. `task` is the oldest unfinished task. Return the reason why the worker is lost, or None if it is not."""
        self._silent_s += self._tick_s
        self._task_s = self._task_s + self._tick_s if task == self._task else 0.0
        self._task = task
        if self._silent_s > self._patience.silence_s:
            return f"the worker sent nothing for {self._silent_s:g} s"
        if task is None:
            return None
        predicted_s = None if task.work is None else self._times.predict_s(task.work)
        if self._task_s <= self._patience.for_step(predicted_s):
            return None
        expected = "" if predicted_s is None else f" (predicted: {predicted_s:.3f} s)"
        return f"no step or load finished for {self._task_s:g} s{expected}"
