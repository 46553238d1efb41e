"""One attached stream: it queues steps from the scheduler for the engine's thread, and sends results and heartbeats.

The session owns its id and the order of written messages. scheduler_link.py chooses the scheduler and reconnects,
step_loop.py runs the steps in order, engine.py computes one step.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable
from functools import partial
from typing import Protocol

import grpc
from opentelemetry.trace import Tracer

from pagoda.models.errors import ModelFormatError, without_directories
from pagoda.process.background import end_tasks, keep_running
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.loadable_models import LoadableModels
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from worker.errors import DeviceLostError, EngineHangsError, NotEnoughMemoryError, UnusableModelError
from worker.steps.engine_thread import EngineThread
from worker.steps.held_blocks import HeldBlocks
from worker.steps.step_loop import FailedStep, Interruption, SessionEnd, StepLoop

logger = logging.getLogger(__name__)

Stream = grpc.aio.StreamStreamCall[worker_pb2.AttachRequest, worker_pb2.AttachResponse]

# Limit for the scheduler to close its half of a stream after the worker has closed its own.
_CLOSE_TIMEOUT_S = 2.0
_SHORTEST_HEARTBEAT_INTERVAL_S = 0.01
# The longest time that a scheduler waits for any step.
_LAST_STEP_S = 120.0
_KINDS = ("step", "recall", "drain", "load", "unload", "heartbeat_ack")


class Store(Protocol):
    """The models that the worker can load: LocalModels, or a fake in tests."""

    @property
    def available_bytes(self) -> int | None: ...

    @property
    def load_progress(self) -> LoadProgress | None:
        """Return the progress of the model that is being loaded, if one is."""

    def refresh(self) -> bool:
        """Read the store again and return True if anything has changed. Called in a thread."""

    def loadable_models(self) -> LoadableModels:
        """Return the models found by the last `refresh`."""


class Session:
    def __init__(
        self,
        stream: Stream,
        attached: worker_pb2.Attached,
        engine_thread: EngineThread,
        held_blocks: HeldBlocks,
        store: Store | None,
        tracer: Tracer,
    ) -> None:
        self._stream = stream
        self._store = store
        self._id = attached.session_id
        # Heartbeats are sent twice as often as requested, so that one late timer is not a missed heartbeat.
        self._heartbeat_interval_s = max(_SHORTEST_HEARTBEAT_INTERVAL_S, attached.heartbeat_interval_ms / 2000)
        self._silence_timeout_s = attached.silence_timeout_ms / 1000 or math.inf
        self.lost_because = ""
        """The reason why the stream was lost; empty after an orderly end."""
        self._silent_s = 0.0
        """Time since the last message from the scheduler, without the time in which this process itself could not run."""
        self._engine_thread = engine_thread
        self._outbox: asyncio.Queue[StepResult | FailedStep | worker_pb2.Leaving | None] = asyncio.Queue()
        """Messages to send: results from the engine's thread, and others between them; None once the thread is done."""
        loop, outbox = asyncio.get_running_loop(), self._outbox
        # The callback must not refer to `self`: the cycle would keep the connection open until the next full collection.
        self._steps = StepLoop(
            held_blocks, tracer, lambda outcome: loop.call_soon_threadsafe(outbox.put_nowait, outcome)
        )
        self._last_step: asyncio.Timeout | None = None
        """Timeout for the last running step; armed when the session is ending."""
        # gRPC accepts one write at a time on a stream.
        self._write_turn = asyncio.Lock()

    async def run(self) -> SessionEnd:
        """Serve the stream until either side ends it, and wait for the running step. The caller must reset the engine."""
        receiving = asyncio.create_task(self._receive())
        # A few missed heartbeats end the session, so a task that failed is restarted within the time of one.
        keep = partial(keep_running, longest_delay_s=self._heartbeat_interval_s)
        others = [keep("heartbeats", self._send_heartbeats), keep("scheduler watch", self._watch_scheduler)]
        if self._store is not None:
            others.append(keep_running("report of loadable models", partial(self._report_models, self._store)))
        try:
            end = await self._run_until_end()
            if end not in (SessionEnd.LOST, SessionEnd.SILENT):
                await self._close(receiving)
            return end
        finally:
            self._end_now(SessionEnd.STOPPED)
            self._stream.cancel()
            await end_tasks(receiving, *others)

    def leave(self, grace_s: float | None) -> None:
        """Tell the scheduler that this worker is leaving. The session lasts until the scheduler has moved all sequences away."""
        grace_ms = None if grace_s is None else round(grace_s * 1000)
        self._outbox.put_nowait(worker_pb2.Leaving(session_id=self._id, grace_ms=grace_ms))

    def stop(self) -> None:
        """End the session after the running step; waiting steps are dropped."""
        self._end_now(SessionEnd.STOPPED)

    def _end_now(self, end: SessionEnd) -> None:
        """Begin no further step, and limit the wait for the running one."""
        self._steps.end_now(end)
        if self._last_step is not None and self._last_step.when() is None:
            self._last_step.reschedule(asyncio.get_running_loop().time() + _LAST_STEP_S)

    async def _run_until_end(self) -> SessionEnd:
        while not isinstance(message := await self._run_steps(), SessionEnd):
            end = await self._move_model(message)
            if end is not None:
                return end
        return message

    async def _move_model(self, message: worker_pb2.Load | worker_pb2.Unload) -> SessionEnd | None:
        """Load or unload the model and return how the session ends, or None if loading failed and the session continues."""
        if isinstance(message, worker_pb2.Unload):
            await self._engine_thread.unload()
            return SessionEnd.UNLOADED
        try:
            await self._engine_thread.load(message.name, message.digest)
            return SessionEnd.LOADED
        except DeviceLostError:
            raise
        except Exception as error:
            # Any failure (a missing file, too little memory) leaves this worker able to load another model.
            logger.exception("cannot load model", extra={"session_id": self._id, "model": message.name})
            failed = worker_pb2.LoadFailed(
                session_id=self._id,
                error=without_directories(str(error)) or type(error).__name__,
                permanent=isinstance(error, UnusableModelError | ModelFormatError),
                out_of_memory=isinstance(error, MemoryError | NotEnoughMemoryError),
            )
        # The error's traceback held memory of the model; outside the handler the error is gone, and the memory can be freed.
        self._engine_thread.release_memory()
        await self._send(worker_pb2.AttachRequest(load_failed=failed))
        return None

    async def _run_steps(self) -> Interruption:
        """Run the step loop on the engine's thread and send its results until it returns."""
        computing = asyncio.create_task(self._engine_thread.run(self._steps.run))
        computing.add_done_callback(lambda _: self._outbox.put_nowait(None))
        try:
            async with asyncio.timeout(None) as self._last_step:
                return await self._send_outcomes(computing)
        except TimeoutError as error:
            raise EngineHangsError(f"the last step did not end within {_LAST_STEP_S:g} s") from error
        finally:
            self._last_step = None

    async def _send_outcomes(self, computing: asyncio.Task[Interruption]) -> Interruption:
        while (content := await self._outbox.get()) is not None:
            if not await self._send(self._message(content)):
                self._end_now(SessionEnd.LOST)
        return computing.result()

    async def _receive(self) -> None:
        """Put the scheduler's messages into the inbox.

        The end of the stream, or a message that cannot be handled, drops the steps that wait there.
        """
        try:
            while isinstance(message := await self._stream.read(), worker_pb2.AttachResponse):
                self._silent_s = 0.0
                self._take(message)
        except grpc.aio.AioRpcError as error:
            self.lost_because = f"{error.code().name}: {error.details()}"
        except Exception as error:
            logger.exception("cannot handle message; ending the session", extra={"session_id": self._id})
            self.lost_because = repr(error)
        logger.debug("stream ended", extra={"session_id": self._id, "reason": self.lost_because})
        self._end_now(SessionEnd.LOST)

    def _take(self, message: worker_pb2.AttachResponse) -> None:
        kind = message.WhichOneof("message")
        content = getattr(message, kind) if kind in _KINDS else None
        if content is None:
            logger.warning("unexpected message ignored", extra={"kind": kind})
        elif content.session_id != self._id:
            logger.warning(
                "message of another session ignored",
                extra={"kind": kind, "session_id": content.session_id, "current_session_id": self._id},
            )
        elif isinstance(content, worker_pb2.Recall):
            self._steps.recalled_step_id = content.step_id
        elif not isinstance(content, worker_pb2.HeartbeatAck):
            self._steps.put(SessionEnd.DRAINED if isinstance(content, worker_pb2.Drain) else content)

    async def _send_heartbeats(self) -> None:
        alive = True
        while alive:
            await asyncio.sleep(self._heartbeat_interval_s)
            progress = self._store.load_progress if self._store else None
            heartbeat = worker_pb2.Heartbeat(
                session_id=self._id,
                last_step_id=self._steps.last_step_id,
                step_running=self._steps.step_is_running,
                available_bytes=self._store.available_bytes if self._store else None,
                load_progress=progress.to_proto() if progress else None,
            )
            alive = await self._send(worker_pb2.AttachRequest(heartbeat=heartbeat))

    async def _report_models(self, store: Store) -> None:
        """Report the loadable models whenever the store has changed."""
        while True:
            if await asyncio.to_thread(store.refresh):
                await self._send(worker_pb2.AttachRequest(loadable_models=store.loadable_models().to_proto()))
            await asyncio.sleep(self._heartbeat_interval_s)

    async def _watch_scheduler(self) -> None:
        """End the session when the scheduler has been silent for too long; it answers every heartbeat.

        Cancelling the stream also frees a task that waits for a write which the scheduler does not read.
        """
        while self._silent_s <= self._silence_timeout_s:
            await asyncio.sleep(self._heartbeat_interval_s)
            self._silent_s += self._heartbeat_interval_s
        self._end_now(SessionEnd.SILENT)
        self._stream.cancel()

    def _message(self, content: StepResult | FailedStep | worker_pb2.Leaving) -> worker_pb2.AttachRequest:
        match content:
            case StepResult() as result:
                return worker_pb2.AttachRequest(step_result=result.to_proto(self._id))
            case FailedStep(step_id, reason):
                failed = worker_pb2.StepResult(session_id=self._id, step_id=step_id, error=reason)
                return worker_pb2.AttachRequest(step_result=failed)
            case leaving:
                return worker_pb2.AttachRequest(leaving=leaving)

    async def _send(self, message: worker_pb2.AttachRequest) -> bool:
        """Send a message and return True, or return False if the stream has ended; `_receive` handles that end."""
        async with self._write_turn:
            return await _is_delivered(self._stream.write(message))

    async def _close(self, receiving: asyncio.Task[None]) -> None:
        """Close the worker's half of the stream after the last message, and give the scheduler time to close its own."""
        async with self._write_turn:
            if await _is_delivered(self._stream.done_writing()):
                await asyncio.wait([receiving], timeout=_CLOSE_TIMEOUT_S)


async def _is_delivered(operation: Awaitable[None]) -> bool:
    try:
        await operation
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    except asyncio.CancelledError:
        # gRPC raises this error for a cancelled stream, too; only a cancelled task may pass it on.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return False
    return True
