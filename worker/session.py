"""One attached stream: steps come down and wait, run strictly in order, results and heartbeats go up.

Owns the queue of steps and the session id. Knows nothing about addresses and reconnecting (scheduler_link.py), nor about
what a step does (engine.py).
"""

import asyncio
import logging
from collections.abc import Awaitable
from enum import Enum, auto

import grpc

from pagoda.tracing import Tracer
from protos.v1 import worker_pb2
from worker.engine_thread import EngineThread
from worker.held_blocks import HeldBlocks
from worker.lease import Lease
from worker.step import Step, StepResult
from worker.step_messages import result_to_proto, step_from_proto
from worker.tracing import describe_result, start_step_span

logger = logging.getLogger(__name__)

Stream = grpc.aio.StreamStreamCall[worker_pb2.AttachRequest, worker_pb2.AttachResponse]

# How long the scheduler may take to end its half of a stream after the worker has ended its own.
_CLOSE_TIMEOUT_S = 2.0
_SHORTEST_HEARTBEAT_INTERVAL_S = 0.01


class SessionEnd(Enum):
    LOST = auto()
    """The scheduler ended the stream, or it broke."""
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


class Session:
    def __init__(
        self,
        stream: Stream,
        attached: worker_pb2.Attached,
        engine_thread: EngineThread,
        held_blocks: HeldBlocks,
        tracer: Tracer,
    ) -> None:
        self._stream = stream
        self._held_blocks = held_blocks
        self._id = attached.session_id
        # Twice as often as asked, so that one late timer is not a missed heartbeat.
        self._heartbeat_interval_s = max(_SHORTEST_HEARTBEAT_INTERVAL_S, attached.heartbeat_interval_ms / 2000)
        self._engine_thread = engine_thread
        self._tracer = tracer
        self._inbox: asyncio.Queue[worker_pb2.Step | worker_pb2.Load | worker_pb2.Unload | SessionEnd] = asyncio.Queue()
        # gRPC takes one message at a time from all of us.
        self._write_turn = asyncio.Lock()
        self._last_step_id = 0
        self._step_running = False
        self._recalled_step_id = 0
        """Where the lease begins that was recalled last."""
        self._is_ending = False
        """No step may be begun any more."""

    async def run(self) -> SessionEnd:
        """Until either side ends it. A step that runs is waited for; the engine is left for the caller to reset."""
        receiving = asyncio.create_task(self._receive())
        beating = asyncio.create_task(self._send_heartbeats())
        try:
            end = await self._run_steps()
            if end is not SessionEnd.LOST:
                await self._close(receiving)
            return end
        finally:
            self._stream.cancel()
            receiving.cancel()
            beating.cancel()
            await asyncio.gather(receiving, beating, return_exceptions=True)

    def stop(self) -> None:
        """End after the step that runs, without those that wait."""
        self._end_now(SessionEnd.STOPPED)

    def _end_now(self, end: SessionEnd) -> None:
        self._is_ending = True
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(end)

    async def _run_steps(self) -> SessionEnd:
        while True:
            message = await self._inbox.get()
            end = message if isinstance(message, SessionEnd) else await self._run_message(message)
            if end is not None:
                return end

    async def _run_message(self, message: worker_pb2.Step | worker_pb2.Load | worker_pb2.Unload) -> SessionEnd | None:
        """None when the session goes on."""
        match message:
            case worker_pb2.Step():
                return await self._run_plan(message)
            case worker_pb2.Load():
                return await self._load(message)
            case _:
                await self._engine_thread.unload()
                return SessionEnd.UNLOADED

    async def _load(self, message: worker_pb2.Load) -> SessionEnd | None:
        try:
            await self._engine_thread.load(message.digest)
        except Exception as error:
            # Whatever it was (a file that is gone, no memory): this worker is as able as before to try again.
            logger.exception("model not loaded", extra={"session_id": self._id, "model": message.name})
            reason = str(error) or type(error).__name__
            failed = worker_pb2.LoadFailed(session_id=self._id, error=reason)
            return None if await self._send(worker_pb2.AttachRequest(load_failed=failed)) else SessionEnd.LOST
        return SessionEnd.LOADED

    async def _run_plan(self, message: worker_pb2.Step) -> SessionEnd | None:
        """The step that it describes, and where that is a lease, those that follow."""
        self._held_blocks.apply(message)
        step_id = message.step_id
        try:
            lease = Lease(step_from_proto(message))
            while True:
                step_id = lease.step.step_id
                result = await self._run_step(lease.step, message.traceparent)
                next_is_last = lease.go_on(result, is_recalled=self._recalled_step_id == message.step_id)
                if not await self._send_result(result_to_proto(result, self._id, next_is_last=next_is_last)):
                    return SessionEnd.LOST
                if lease.is_over or self._is_ending:
                    return None
        except Exception as error:
            logger.exception("step failed", extra={"session_id": self._id, "step_id": step_id})
            reason = f"{type(error).__name__}: {error}"
            await self._send_result(worker_pb2.StepResult(session_id=self._id, step_id=step_id, error=reason))
            return SessionEnd.FAILED

    async def _run_step(self, step: Step, traceparent: str) -> StepResult:
        self._step_running = True
        span = start_step_span(self._tracer, step, traceparent)
        try:
            result = await self._engine_thread.run_step(step)
            describe_result(span, result)
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()
            self._step_running = False
        self._last_step_id = step.step_id
        return result

    async def _receive(self) -> None:
        """Puts what the scheduler says into the inbox. The end of the stream drops the steps that wait there."""
        try:
            while isinstance(message := await self._stream.read(), worker_pb2.AttachResponse):
                self._take(message)
            reason = "ended by the scheduler"
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        logger.debug("stream ended", extra={"session_id": self._id, "reason": reason})
        self._end_now(SessionEnd.LOST)

    def _take(self, message: worker_pb2.AttachResponse) -> None:
        kind = message.WhichOneof("message")
        content = getattr(message, kind) if kind in ("step", "recall", "drain", "load", "unload") else None
        if content is None:
            logger.warning("message ignored, it has no place in a session", extra={"kind": kind})
        elif content.session_id != self._id:
            logger.warning(
                "message of another session ignored",
                extra={"kind": kind, "session_id": content.session_id, "current_session_id": self._id},
            )
        elif isinstance(content, worker_pb2.Recall):
            self._recalled_step_id = content.step_id
        else:
            self._inbox.put_nowait(SessionEnd.DRAINED if isinstance(content, worker_pb2.Drain) else content)

    async def _send_heartbeats(self) -> None:
        alive = True
        while alive:
            await asyncio.sleep(self._heartbeat_interval_s)
            heartbeat = worker_pb2.Heartbeat(
                session_id=self._id, last_step_id=self._last_step_id, step_running=self._step_running
            )
            alive = await self._send(worker_pb2.AttachRequest(heartbeat=heartbeat))

    async def _send_result(self, result: worker_pb2.StepResult) -> bool:
        return await self._send(worker_pb2.AttachRequest(step_result=result))

    async def _send(self, message: worker_pb2.AttachRequest) -> bool:
        """False once the stream has ended; `_receive` sees the same end."""
        async with self._write_turn:
            return await _is_delivered(self._stream.write(message))

    async def _close(self, receiving: asyncio.Task[None]) -> None:
        """End our half after what was written, and give the scheduler a moment to end its own."""
        async with self._write_turn:
            if await _is_delivered(self._stream.done_writing()):
                await asyncio.wait([receiving], timeout=_CLOSE_TIMEOUT_S)


async def _is_delivered(operation: Awaitable[None]) -> bool:
    try:
        await operation
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True
