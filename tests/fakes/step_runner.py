"""A base class for engines of which a test writes a single method."""

from abc import ABC, abstractmethod

from pagoda.wire.step_result import StepResult
from worker.steps.engine import BegunStep
from worker.steps.executor import Computed
from worker.steps.step import Step


class WholeStepEngine(ABC):
    """A `worker.steps.engine_thread.StepRunner` that runs a step when it is finished."""

    max_in_flight = 1

    def begin_step(self, step: Step) -> BegunStep:
        return BegunStep(step, chunks=(), launched=NothingLaunched(), begin_ns=0)

    def finish_step(self, begun: BegunStep) -> StepResult:
        return self.run_step(begun.step)

    @abstractmethod
    def run_step(self, step: Step) -> StepResult: ...

    @abstractmethod
    def reset(self) -> None: ...


class NothingLaunched:
    """A `worker.steps.executor.LaunchedStep` for which nothing was launched."""

    def wait(self) -> Computed:
        return Computed((), (), ())
