"""What the engine's thread does for a session: it takes the steps that came, runs them strictly in order, and hands over results.

Nothing lies between two steps but the engine's own work: it waits neither for the event loop nor for the network while there
is a step to run. Where the engine can be given a step while it computes another, it is: results leave in order all the same.
Owns the queue of steps and which of them are begun.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from pagoda.telemetry.tracing import Span, Tracer
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from worker.errors import DeviceLostError
from worker.steps.engine_thread import StepRunner
from worker.steps.held_blocks import HeldBlocks
from worker.steps.lease import MOST_IN_FLIGHT, Lease
from worker.steps.step_messages import step_from_proto
from worker.steps.tracing import describe_result, start_step_span

if TYPE_CHECKING:
    from worker.steps.engine import BegunStep

logger = logging.getLogger(__name__)


class SessionEnd(Enum):
    LOST = auto()
    """The scheduler ended the stream, or it broke."""
    SILENT = auto()
    """Nothing was heard from the scheduler any more, whatever the socket says."""
    DRAINED = auto()
    """The scheduler said that no more steps will come."""
    FAILED = auto()
    """A step raised; the scheduler was told."""
    STOPPED = auto()
    """This worker wants to go."""
    LOADED = auto()
    """The model is in memory now."""
    UNLOADED = auto()
    """The model is in memory no more."""


Interruption = SessionEnd | worker_pb2.Load | worker_pb2.Unload
"""What is not a step, and so not for this loop."""


class FailedStep(NamedTuple):
    step_id: int
    reason: str


class LeasedSteps(NamedTuple):
    message: worker_pb2.Step
    lease: Lease


class StepInFlight(NamedTuple):
    """A step that is begun and not finished."""

    step_id: int
    leased: LeasedSteps
    begun: "BegunStep"
    span: Span


class StepLoop:
    """`run` belongs to the engine's thread, everything else to the event loop's."""

    def __init__(
        self, held_blocks: HeldBlocks, tracer: Tracer, deliver: Callable[[StepResult | FailedStep], object]
    ) -> None:
        """`deliver` is called on the engine's thread, for each step in turn."""
        self._held_blocks = held_blocks
        self._tracer = tracer
        self._deliver = deliver
        self._inbox: SimpleQueue[worker_pb2.Step | Interruption] = SimpleQueue()
        self._leased: LeasedSteps | None = None
        """What the message that was taken last stands for."""
        self._in_flight: deque[StepInFlight] = deque()
        self._is_ending = False
        """No step may be begun any more."""
        self.recalled_step_id = 0
        """Where the lease begins that was recalled last."""
        self.last_step_id = 0
        self.step_is_running = False

    def put(self, message: worker_pb2.Step | Interruption) -> None:
        """A step to run, or what `run` returns with behind those that wait."""
        self._inbox.put(message)

    def end_now(self, end: SessionEnd) -> None:
        """Without the steps that wait, behind those that are begun. The first reason counts."""
        if self._is_ending:
            return
        self._is_ending = True
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()
        self._inbox.put(end)

    def run(self, engine: StepRunner) -> Interruption:
        """Raises DeviceLostError where the engine cannot go on in this process."""
        max_in_flight = min(engine.max_in_flight, MOST_IN_FLIGHT)
        end: Interruption | FailedStep | None = None
        while end is None or self._in_flight:
            may_begin = end is None and len(self._in_flight) < max_in_flight
            begun = self._begin_next(engine) if may_begin else None
            if isinstance(begun, StepInFlight):
                self._in_flight.append(begun)
            elif begun is not None:
                end = begun
            else:
                outcome = self._finish_oldest(engine)
                if isinstance(outcome, FailedStep):
                    self._drop_in_flight()
                    end = outcome
                else:
                    self._deliver(outcome)
        if isinstance(end, FailedStep):
            self._deliver(end)
            return SessionEnd.FAILED
        return end

    def _begin_next(self, engine: StepRunner) -> StepInFlight | FailedStep | Interruption | None:
        """None where there is nothing to begin yet and a step is in flight, which can be finished meanwhile."""
        while self._leased is None or self._leased.lease.is_over or self._is_ending:
            try:
                message = self._inbox.get(block=not self._in_flight)
            except Empty:
                return None
            if not isinstance(message, worker_pb2.Step):
                return message
            try:
                self._held_blocks.apply(message)
                self._leased = LeasedSteps(message, Lease(step_from_proto(message)))
            except Exception as error:
                return _failed(message, message.step_id, error)
        return self._begin_step(engine, self._leased)

    def _begin_step(self, engine: StepRunner, leased: LeasedSteps) -> StepInFlight | FailedStep:
        step = leased.lease.advance()
        self.step_is_running = True
        span = start_step_span(self._tracer, step, leased.message.traceparent)
        try:
            return StepInFlight(step.step_id, leased, engine.begin_step(step), span)
        except Exception as error:
            self.step_is_running = bool(self._in_flight)
            _end_failed(span, error)
            return _failed(leased.message, step.step_id, error)

    def _finish_oldest(self, engine: StepRunner) -> StepResult | FailedStep:
        step_id, (message, lease), begun, span = self._in_flight.popleft()
        try:
            result = engine.finish_step(begun)
            describe_result(span, result)
        except Exception as error:
            _end_failed(span, error)
            return _failed(message, step_id, error)
        finally:
            self.step_is_running = bool(self._in_flight)
        span.end()
        self.last_step_id = step_id
        next_is_last = lease.observe(result, is_recalled=self.recalled_step_id == lease.first_step_id)
        return replace(result, next_is_last=True) if next_is_last else result

    def _drop_in_flight(self) -> None:
        """Behind a step that failed, what was begun is void."""
        for step in self._in_flight:
            step.span.end()
        self._in_flight.clear()
        self.step_is_running = False


def _failed(message: worker_pb2.Step, step_id: int, error: Exception) -> FailedStep:
    """Raises the error again where it is not the step's, but the end of the engine."""
    if isinstance(error, DeviceLostError):
        raise error
    logger.exception("step failed", extra={"session_id": message.session_id, "step_id": step_id})
    return FailedStep(step_id, f"{type(error).__name__}: {error}")


def _end_failed(span: Span, error: Exception) -> None:
    span.fail(type(error).__name__)
    span.end()
