"""What the engine's thread does for a session: it takes the steps that came, runs them strictly in order, and hands over results.

Nothing lies between two steps but the engine's own work: it waits neither for the event loop nor for the network while there
is a step to run. Owns the queue of steps. Knows nothing about streams.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import NamedTuple

from pagoda.telemetry.tracing import Tracer
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from worker.steps.engine_thread import StepRunner
from worker.steps.held_blocks import HeldBlocks
from worker.steps.lease import Lease
from worker.steps.step import Step
from worker.steps.step_messages import step_from_proto
from worker.steps.tracing import describe_result, start_step_span

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
        """Without the steps that wait, behind the one that runs. The first reason counts."""
        if self._is_ending:
            return
        self._is_ending = True
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()
        self._inbox.put(end)

    def run(self, engine: StepRunner) -> Interruption:
        while isinstance(message := self._inbox.get(), worker_pb2.Step):
            if not self._run_message(engine, message):
                return SessionEnd.FAILED
        return message

    def _run_message(self, engine: StepRunner, message: worker_pb2.Step) -> bool:
        """The step that it describes, and where that is a lease, those that follow; False where one failed."""
        step_id = message.step_id
        try:
            self._held_blocks.apply(message)
            lease = Lease(step_from_proto(message))
            while not (lease.is_over or self._is_ending):
                step_id = lease.step.step_id
                result = self._run_step(engine, lease.step, message.traceparent)
                next_is_last = lease.go_on(result, is_recalled=self.recalled_step_id == message.step_id)
                self._deliver(replace(result, next_is_last=True) if next_is_last else result)
        except Exception as error:
            logger.exception("step failed", extra={"session_id": message.session_id, "step_id": step_id})
            self._deliver(FailedStep(step_id, f"{type(error).__name__}: {error}"))
            return False
        return True

    def _run_step(self, engine: StepRunner, step: Step, traceparent: str) -> StepResult:
        self.step_is_running = True
        span = start_step_span(self._tracer, step, traceparent)
        try:
            result = engine.run_step(step)
            describe_result(span, result)
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()
            self.step_is_running = False
        self.last_step_id = step.step_id
        return result
