"""The loop that the engine's thread runs for a session: it runs the received steps strictly in order and delivers results.

Between two steps there is only the engine's own work: while there is a step to run, the loop waits neither for the event
loop nor for the network. If the engine can accept a step while it computes another, the loop begins it; results are still
delivered in order. The loop owns the queue of steps and the record of those that are begun.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.trace import Span, StatusCode, Tracer

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
    """The scheduler ended the stream, or the stream broke."""
    SILENT = auto()
    """No message came from the scheduler for too long, although the connection is open."""
    DRAINED = auto()
    """The scheduler announced that no more steps will come."""
    FAILED = auto()
    """A step raised an exception, which was reported to the scheduler."""
    STOPPED = auto()
    """This worker is stopping."""
    LOADED = auto()
    """The model was loaded."""
    UNLOADED = auto()
    """The model was unloaded."""


Interruption = SessionEnd | worker_pb2.Load | worker_pb2.Unload
"""A message that is not a step: `StepLoop.run` returns it."""


class FailedStep(NamedTuple):
    step_id: int
    reason: str


class LeasedSteps(NamedTuple):
    message: worker_pb2.Step
    lease: Lease


class StepInFlight(NamedTuple):
    """A step that has begun and is not finished."""

    step_id: int
    leased: LeasedSteps
    begun: "BegunStep"
    span: Span


class StepLoop:
    """The queue of steps and the loop over them. `run` is called on the engine's thread, all else on the event loop's."""

    def __init__(
        self, held_blocks: HeldBlocks, tracer: Tracer, deliver: Callable[[StepResult | FailedStep], object]
    ) -> None:
        """Create a loop that calls `deliver` on the engine's thread with the result of each step, in order."""
        self._held_blocks = held_blocks
        self._tracer = tracer
        self._deliver = deliver
        self._inbox: SimpleQueue[worker_pb2.Step | Interruption] = SimpleQueue()
        self._leased: LeasedSteps | None = None
        """The steps of the message that was taken last."""
        self._in_flight: deque[StepInFlight] = deque()
        self._is_ending = False
        """True if no further step may begin."""
        self.recalled_step_id = 0
        """Id of the first step of the lease that was recalled last."""
        self.last_step_id = 0
        self.step_is_running = False

    def put(self, message: worker_pb2.Step | Interruption) -> None:
        """Add a step to run, or a message that makes `run` return it after the waiting steps."""
        self._inbox.put(message)

    def end_now(self, end: SessionEnd) -> None:
        """Make `run` return `end` after the begun steps, and drop the waiting ones. Only the first call counts."""
        if self._is_ending:
            return
        self._is_ending = True
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()
        self._inbox.put(end)

    def run(self, engine: StepRunner) -> Interruption:
        """Run steps until a message that is not a step, and return it.

        Raises DeviceLostError if the engine cannot continue in this process.
        """
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
        """Begin the next step. Return None if there is none yet and a step in flight can be finished first."""
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
        """Drop all begun steps, which are void after a step that failed."""
        for step in self._in_flight:
            step.span.end()
        self._in_flight.clear()
        self.step_is_running = False


def _failed(message: worker_pb2.Step, step_id: int, error: Exception) -> FailedStep:
    """Log the error and return the failed step. Raises the error again if the engine cannot continue."""
    if isinstance(error, DeviceLostError):
        raise error
    logger.exception("step failed", extra={"session_id": message.session_id, "step_id": step_id})
    return FailedStep(step_id, f"{type(error).__name__}: {error}")


def _end_failed(span: Span, error: Exception) -> None:
    span.set_status(StatusCode.ERROR, type(error).__name__)
    span.end()
