"""The link that keeps the worker attached to a scheduler: it connects, sends Hello, serves the session and reconnects.

It owns the list of schedulers and the back-off. The worker attaches to the first scheduler that answers and stays there until
that scheduler is gone, drains or falls silent, or until another one has too few workers (scheduler_spread.py). The session
itself is in session.py.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc
from opentelemetry.trace import NoOpTracer, Tracer

from pagoda.process.background import end_tasks, keep_running
from pagoda.rpc.grpc_channel import LOCAL_ONLY, open_channel
from pagoda.rpc.transport_security import TransportSecurity
from protos.v1 import worker_pb2, worker_pb2_grpc
from worker.errors import EngineHangsError
from worker.rpc.scheduler_spread import better_place, by_preference, find_peers
from worker.rpc.session import Session, Store, Stream
from worker.steps.engine_thread import EngineThread, Load, Loaded, StepRunner
from worker.steps.held_blocks import HeldBlocks
from worker.steps.step_loop import SessionEnd

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_ATTACH_TIMEOUT_S = 10.0
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_MODEL_MOVED = (SessionEnd.LOADED, SessionEnd.UNLOADED)
"""Ends after which the worker attaches again immediately, with its new model or without one."""


class AttachError(Exception):
    """The scheduler cannot be reached, or did not accept the worker."""


class SchedulerLink:
    """The worker's link to its scheduler. Create and use it inside one event loop."""

    def __init__(
        self,
        engine: StepRunner | None,
        load: Load,
        hello: worker_pb2.Hello,
        addresses: Sequence[str],
        tracer: Tracer | None = None,
        security: TransportSecurity = LOCAL_ONLY,
        store: Store | None = None,
        spread_interval_s: float = 0.0,
    ) -> None:
        """Create a link for an engine whose model `hello` describes, if there is an engine.

        Every `spread_interval_s` seconds, unless that is 0, the link checks whether another scheduler needs the worker more.
        """
        self._engine_thread = EngineThread(Loaded(engine, hello.model) if engine else None, load)
        self._tracer = tracer or NoOpTracer()
        self._security = security
        self._hello = hello
        self._instance = hello.instance or secrets.token_hex(8)
        self._store = store
        self._held_blocks = HeldBlocks(hello.model.page_size or 1)
        self._addresses = by_preference(hello.worker_id, addresses)
        self._spread_interval_s = spread_interval_s
        self._stopping = asyncio.Event()
        self._session: Session | None = None
        self._end_of_grace: asyncio.TimerHandle | None = None
        """Timer that stops the worker when its grace is over; set once the worker is leaving."""
        self._position = 0
        """Position of the current scheduler in the list of addresses, which is repeated without end."""
        self._is_moving = False
        """True if the worker has asked its scheduler to let it move to the scheduler at `_position`."""
        self._num_failures = 0
        """Failed attempts since the last good session."""
        self._reported: set[str] = set()
        """Addresses whose failure is already logged, so that an outage is one line and not one for each attempt."""

    async def run(self) -> None:
        """Serve schedulers until `stop` or `leave`.

        Raises only if the worker cannot continue: the engine hangs, its device is lost, or it cannot be reset.
        """
        has_ended = True
        try:
            while not self._stopping.is_set():
                await self._unless_stopping(asyncio.sleep(self._delay_s()))
                if not self._stopping.is_set():
                    await self._serve(self._addresses[self._position % len(self._addresses)])
        except EngineHangsError:
            has_ended = False
            raise
        finally:
            if self._end_of_grace is not None:
                self._end_of_grace.cancel()
            self._engine_thread.close(wait=has_ended)

    def leave(self, grace_s: float) -> None:
        """Stop once the scheduler has moved or finished this worker's sequences, at the latest after `grace_s` seconds."""
        if self._session is None:
            self.stop()
        elif self._end_of_grace is None:
            logger.info("leaving scheduler", extra={"grace_s": grace_s})
            self._end_of_grace = asyncio.get_running_loop().call_later(grace_s, self.stop)
            self._session.leave(grace_s)

    def stop(self) -> None:
        """Stop after the running step."""
        self._stopping.set()
        if self._session is not None:
            self._session.stop()

    def _delay_s(self) -> float:
        """Return the wait before the next attempt: 0 in the first round through the list, then longer with each round."""
        num_rounds = self._num_failures // len(self._addresses)
        return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(num_rounds - 1, 10)) if num_rounds else 0.0

    async def _serve(self, address: str) -> None:
        """Connect and attach to the scheduler at `address`, and serve it until the session ends."""
        try:
            channel = open_channel(address, self._security)
        except OSError as error:  # A certificate cannot be read while it is being renewed.
            self._report_failure(address, AttachError(str(error)))
            return
        async with channel:
            stream: Stream = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
            try:
                attached = await self._unless_stopping(self._attach(stream))
            except AttachError as error:
                self._report_failure(address, error)
                return
            if attached is not None:
                session = Session(stream, attached, self._engine_thread, self._held_blocks, self._store, self._tracer)
                await self._run_session(address, session)

    async def _attach(self, stream: Stream) -> worker_pb2.Attached:
        try:
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                for message in self._introduction():
                    await stream.write(message)
                answer = await stream.read()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                # The report of held blocks may be the reason: the next attempt goes without it.
                self._held_blocks.clear()
            raise AttachError(error.details() or error.code().name) from error
        except asyncio.InvalidStateError as error:  # The scheduler ended the stream while it was written to.
            raise AttachError(await stream.details() or (await stream.code()).name) from error
        except TimeoutError as error:
            raise AttachError(f"no answer within {_ATTACH_TIMEOUT_S} s") from error
        if not isinstance(answer, worker_pb2.AttachResponse) or not answer.HasField("attached"):
            raise AttachError("the scheduler ended the stream, or its first message was not Attached")
        return answer.attached

    def _introduction(self) -> list[worker_pb2.AttachRequest]:
        """Return the first messages of a stream: Hello, and the blocks that the worker's pages still hold."""
        held_blocks = self._held_blocks.to_proto()
        hello = worker_pb2.Hello(
            worker_id=self._hello.worker_id,
            epoch=self._hello.epoch,
            instance=self._instance,
            device=self._hello.device,
            model=self._engine_thread.model,
            loadable_models=self._store.loadable_models().to_proto() if self._store else None,
            num_held_blocks_messages=len(held_blocks),
        )
        first = worker_pb2.AttachRequest(hello=hello)
        return [first, *(worker_pb2.AttachRequest(held_blocks=held) for held in held_blocks)]

    async def _run_session(self, address: str, session: Session) -> None:
        self._reported.clear()
        logger.info("attached to scheduler", extra={"address": address})
        self._session = session
        if self._stopping.is_set():
            session.stop()
        started = time.monotonic()
        spreading = keep_running("spread over schedulers", partial(self._move_where_too_few_are, session))
        try:
            end = await session.run()
        finally:
            await end_tasks(spreading)
        self._session = None
        if self._end_of_grace is not None:
            self._stopping.set()
        await self._engine_thread.reset()
        if end is SessionEnd.FAILED:
            # The cause of the failure may be in the pages.
            self._held_blocks.clear()
        elif end in _MODEL_MOVED:
            # A model's pages are freed with it.
            model = self._engine_thread.model
            self._held_blocks = HeldBlocks(model.page_size if model else 1)
        self._choose_next(end, lasted_s=time.monotonic() - started)
        told = {"address": address, "reason": end.name.lower(), "details": session.lost_because}
        logger.log(_severity(end), "session ended", extra={key: value for key, value in told.items() if value})

    def _choose_next(self, end: SessionEnd, lasted_s: float) -> None:
        """Choose the scheduler for the next attachment, and count failures for the back-off.

        If a model was loaded or unloaded, or the stream was lost, the worker returns to the same scheduler immediately. If a step
        failed, it returns there after a short wait, because that scheduler counts which sequences make steps fail. If the
        scheduler drains or is silent, the worker goes to the next one.
        """
        is_moving, self._is_moving = self._is_moving, False
        if end in _MODEL_MOVED or (is_moving and end is SessionEnd.DRAINED):
            return
        if lasted_s > _LONGEST_DELAY_S:
            self._num_failures = 0
        if end is not SessionEnd.LOST or lasted_s <= _LONGEST_DELAY_S:
            self._num_failures += 1
        if end in (SessionEnd.DRAINED, SessionEnd.SILENT):
            self._position += 1

    async def _move_where_too_few_are(self, session: Session) -> None:
        """Leave once two checks in a row find the same better scheduler.

        One check is not enough: a scheduler that has just come back may soon fail again.
        """
        if len(self._addresses) == 1 or not self._spread_interval_s:
            return
        seen_before: str | None = None
        while (model := self._engine_thread.model) is not None:
            await asyncio.sleep(self._spread_interval_s)
            peers = await find_peers(self._addresses, model, self._security)
            better = better_place(self._hello.worker_id, peers)
            if better is not None and better == seen_before:
                self._is_moving = True
                self._position = self._addresses.index(better)
                logger.info("moving to a scheduler with fewer workers", extra={"address": better})
                session.leave(None)
                return
            seen_before = better

    def _report_failure(self, address: str, error: AttachError) -> None:
        self._num_failures += 1
        self._position += 1
        if address not in self._reported:
            self._reported.add(address)
            reason = self._security.explain(address, str(error))
            logger.warning("cannot attach to scheduler; retrying", extra={"address": address, "reason": reason})

    async def _unless_stopping(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return the work's result, or None if the worker is stopped first."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            await end_tasks(working, stopping)
            # The error's traceback refers to this frame: the cycle would keep a failed stream's connection open for a while.
            del working


def _severity(end: SessionEnd) -> int:
    return logging.INFO if end in (SessionEnd.STOPPED, SessionEnd.DRAINED) else logging.WARNING
