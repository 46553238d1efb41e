"""The base of engines that are a single method of a test's own."""

from abc import ABC, abstractmethod

from pagoda.wire.step_result import StepResult
from worker.steps.engine import BegunStep
from worker.steps.executor import Computed
from worker.steps.step import Step


class WholeStepEngine(ABC):
    """Fits `worker.steps.engine_thread.StepRunner`: a step is run where it is finished."""

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
    """Fits `worker.steps.executor.LaunchedStep`."""

    def wait(self) -> Computed:
        return Computed((), (), ())
