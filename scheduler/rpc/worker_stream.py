"""The gRPC service for workers. Each worker opens a stream, over which it receives plans and returns results.

A worker is attached after its first messages, then it is served and watched, and it is detached when it has left or is lost.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from pagoda.process.background import report_failure
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2, worker_pb2_grpc
from scheduler.errors import SilentWorkerError, WorkerIDTakenError, WorkerProtocolError
from scheduler.faults.worker_watch import Patience, Task, WorkerWatch
from scheduler.loop import SchedulerLoop
from scheduler.models.worker_stores import UnloadedWorker
from scheduler.rpc import worker_messages
from scheduler.rpc.stream_link import StreamLink
from scheduler.rpc.worker_bounds import result_problem, shortened, store_problem
from scheduler.rpc.worker_greeting import Greeting, read_greeting
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import WorkerStore

# Factor by which a worker waits longer for its scheduler than the scheduler for the worker. A late scheduler is late for all its
# workers, and they would all leave at once.
SCHEDULER_SILENCE = 1.5
# Refused processes to log for each attached one.
MAX_TOLD_REFUSALS = 100

SERVICE_NAME = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name

logger = logging.getLogger(__name__)


class StreamEnd(NamedTuple):
    reason: str
    status: grpc.StatusCode | None = None
    """Status of the stream. None if the worker ended it."""


WORKER_LEFT = StreamEnd("the worker ended the stream")
CANCEL_S = 0.1
"""Time within which a call is cancelled after its messages ended because the connection broke."""
REPLACED = StreamEnd("this worker has opened another stream", grpc.StatusCode.ABORTED)
FAILED = StreamEnd("internal error of the scheduler", grpc.StatusCode.INTERNAL)


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, loop: SchedulerLoop, *, heartbeat_s: float, patience: Patience) -> None:
        """Create the service. Workers must send a heartbeat every `heartbeat_s`."""
        self._loop = loop
        self._heartbeat_s = heartbeat_s
        self._patience = patience
        self._streams: dict[str, WorkerStream] = {}
        """Streams by worker id."""

    async def Attach(
        self,
        request_iterator: AsyncIterator[worker_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse],
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        messages = aiter(request_iterator)
        try:
            greeting = await read_greeting(messages, self._patience.silence_s)
            await self._claim_place(greeting.hello)
        except WorkerProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except SilentWorkerError as error:
            logger.info("silent stream ended", extra={"peer": context.peer(), "reason": str(error)})
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
        except WorkerIDTakenError as error:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
        stream = WorkerStream(self._loop, greeting, heartbeat_s=self._heartbeat_s, patience=self._patience)
        self._streams[greeting.hello.worker_id] = stream
        serving = asyncio.create_task(stream.serve_until_end(messages))
        try:
            while (response := await stream.link.outgoing.get()) is not None:
                yield response
        finally:
            serving.cancel()
            if self._streams.get(greeting.hello.worker_id) is stream:
                del self._streams[greeting.hello.worker_id]
        end = serving.result()
        if end.status is not None:
            await context.abort(end.status, end.reason)

    async def _claim_place(self, hello: worker_pb2.Hello) -> None:
        """Return when no other stream has the worker's id. Raises WorkerIDTakenError if another live process has it.

        A restarted process waits until its predecessor's stream is broken or known to be dead. A process that was frozen
        finds its successor attached. Of two live processes the first one stays.
        """
        while (current := self._streams.get(hello.worker_id)) is not None and not current.has_ended:
            if current.is_of_process(hello):
                current.end_replaced()
                return
            if current.epoch > hello.epoch:
                problem = f"a process that started later is attached as {hello.worker_id!r}"
            elif await current.outlives_question():
                problem = f"another live process is attached as {hello.worker_id!r}"
            else:
                continue
            problem = f"{problem}; stop one of the two, or give this one another id with --worker-id"
            current.note_refusal(hello, problem)
            raise WorkerIDTakenError(problem)


class WorkerStream:
    def __init__(self, loop: SchedulerLoop, greeting: Greeting, *, heartbeat_s: float, patience: Patience) -> None:
        """Attach the worker. `serve_until_end` detaches it."""
        self.link = StreamLink()
        self.has_ended = False
        self._loop = loop
        self._hello = greeting.hello
        self._tick_s = heartbeat_s / 2
        self._watch = WorkerWatch(patience, self._tick_s)
        self._replaced = asyncio.Event()
        self._next_sign: asyncio.Future[bool] | None = None
        """Result of a pending `outlives_question`: True if a message comes, False if the stream ends before."""
        self._last_heartbeat: worker_pb2.Heartbeat | None = None
        self._refused: set[str] = set()
        self._worker = self._attach(greeting.held_blocks)
        silence_s = patience.silence_s * SCHEDULER_SILENCE
        self.link.send_attached(self._worker.session_id, heartbeat_s=heartbeat_s, silence_s=silence_s)

    async def serve_until_end(self, messages: AsyncIterator[worker_pb2.AttachRequest]) -> StreamEnd:
        """Serve the worker until it has left or is lost, and detach it. A hung worker is detached too, although nothing can be
        written to its stream."""
        name = f"stream of worker {self._hello.worker_id}"
        work = (self._read(messages), self._keep_watch(), self._be_replaced())
        tasks = [asyncio.create_task(each, name=name) for each in work]
        end = StreamEnd("the worker's connection closed")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            end = next(task for task in tasks if task.done()).result()
        except Exception:
            # The failure ends only this stream: its worker attaches again. `report_failure` logs it.
            end = FAILED
        finally:
            for task in tasks:
                task.cancel()
                task.add_done_callback(report_failure)
            self.has_ended = True
            self._give_sign(False)
            self._detach(end)
            self.link.close()
        return end

    # ---- another stream with the same worker id

    @property
    def epoch(self) -> int:
        return self._hello.epoch

    def is_of_process(self, hello: worker_pb2.Hello) -> bool:
        """Return True if the Hello comes from the process that opened this stream."""
        return (self._hello.instance, self._hello.epoch) == (hello.instance, hello.epoch)

    def end_replaced(self) -> None:
        """End the stream, because the worker has opened another one."""
        self._replaced.set()

    async def outlives_question(self) -> bool:
        """Wait for the worker's next message. Return True if it comes, and False if the stream ends before. A live worker sends
        heartbeats, so the wait is short."""
        if self._next_sign is None:
            self._next_sign = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next_sign)

    def note_refusal(self, hello: worker_pb2.Hello, reason: str) -> None:
        """Log that another process was refused because of this one. Log it once per process, since it tries again and again."""
        if hello.instance not in self._refused and len(self._refused) < MAX_TOLD_REFUSALS:
            self._refused.add(hello.instance)
            told = {"worker": hello.worker_id, "device": hello.device, "epoch": hello.epoch, "reason": reason}
            logger.error("worker refused", extra=told)

    async def _be_replaced(self) -> StreamEnd:
        await self._replaced.wait()
        return REPLACED

    def _give_sign(self, is_alive: bool) -> None:
        if self._next_sign is not None and not self._next_sign.done():
            self._next_sign.set_result(is_alive)
        self._next_sign = None

    # ---- messages

    def _attach(self, held_blocks: list[tuple[PageId, BlockHash]]) -> AttachedWorker | UnloadedWorker:
        hello, store = self._hello, None
        if hello.HasField("loadable_models"):
            store = worker_messages.store_from_proto(hello, hello.loadable_models)
        if not hello.HasField("model"):
            logger.info("worker attached without a model", extra={"worker": hello.worker_id})
            return self._loop.attachments.attach_unloaded_worker(hello.worker_id, store or WorkerStore(), self.link)
        info = worker_messages.worker_info_from_proto(hello)
        worker = self._loop.attachments.attach_worker(info, self.link, held_blocks, store)
        logger.info("worker attached", extra=_described(worker))
        return worker

    def _detach(self, end: StreamEnd) -> None:
        fields: dict[str, object] = {"worker": self._hello.worker_id, "reason": end.reason}
        if self.link.may_end or end is REPLACED:
            logger.info("worker left", extra=fields)
        else:
            if (last := self._last_heartbeat) is not None:
                fields |= {"last_step": last.last_step_id, "step_running": last.step_running}
            logger.warning("worker lost", extra=fields)
        if isinstance(self._worker, AttachedWorker):
            self._loop.attachments.detach_worker(self._worker)
        else:
            self._loop.attachments.detach_unloaded_worker(self._worker, is_lost=end not in (WORKER_LEFT, REPLACED))

    async def _keep_watch(self) -> StreamEnd:
        while True:
            await asyncio.sleep(self._tick_s)
            if reason := self._watch.tick(_task_of(self._worker)):
                return StreamEnd(reason, grpc.StatusCode.DEADLINE_EXCEEDED)

    async def _read(self, messages: AsyncIterator[worker_pb2.AttachRequest]) -> StreamEnd:
        try:
            async for message in messages:
                self._watch.record_sign_of_life()
                self._give_sign(True)
                self._take(message)
        except WorkerProtocolError as error:
            return StreamEnd(str(error), grpc.StatusCode.FAILED_PRECONDITION)
        if isinstance(self._worker, UnloadedWorker) and self._worker.is_busy:
            # The messages of a process that dies while it loads end like those of one that has loaded; then the call is cancelled.
            await asyncio.sleep(CANCEL_S)
        return WORKER_LEFT

    def _take(self, message: worker_pb2.AttachRequest) -> None:
        """Apply a message. Raises WorkerProtocolError if it is wrong, or if it reports a failed step."""
        match message.WhichOneof("message"), self._worker:
            case "step_result", AttachedWorker() as worker:
                self._take_result(worker, message.step_result)
            case "load_failed", UnloadedWorker() as worker:
                self._take_failed_load(worker, message.load_failed)
            case "loadable_models", _:
                if (problem := store_problem(message.loadable_models)) is not None:
                    raise WorkerProtocolError(problem)
                store = worker_messages.store_from_proto(self._hello, message.loadable_models)
                self._loop.loading.set_worker_store(self._hello.worker_id, store)
            case "leaving", _:
                self._take_leaving(message.leaving)
            case "heartbeat", _:
                self._take_heartbeat(message.heartbeat)
            case other, _:
                raise WorkerProtocolError(f"unexpected message {other!r}")

    def _take_result(self, worker: AttachedWorker, message: worker_pb2.StepResult) -> None:
        self._check_session(message.session_id)
        if message.error:
            raise WorkerProtocolError(f"step {message.step_id} failed: {shortened(message.error)}")
        if (problem := result_problem(message, worker.info.limits)) is not None:
            raise WorkerProtocolError(f"step {message.step_id}: {problem}")
        result = StepResult.from_proto(message)
        oldest = worker.steps.oldest
        work = oldest.work_done(result) if oldest else 0
        self._loop.apply_result(worker, result)
        self._watch.record_step_time(work, result.step_us / 1e6)

    def _take_heartbeat(self, heartbeat: worker_pb2.Heartbeat) -> None:
        self._check_session(heartbeat.session_id)
        self._last_heartbeat = heartbeat
        if heartbeat.HasField("available_bytes"):
            self._loop.loading.stores.set_available_bytes(self._hello.worker_id, heartbeat.available_bytes)
        if isinstance(self._worker, UnloadedWorker) and heartbeat.HasField("load_progress"):
            self._worker.progress = LoadProgress.from_proto(heartbeat.load_progress)
        self.link.send_heartbeat_ack()

    def _take_failed_load(self, worker: UnloadedWorker, failed: worker_pb2.LoadFailed) -> None:
        self._check_session(failed.session_id)
        if worker.loading is None:
            raise WorkerProtocolError("received LoadFailed, but the worker was not asked to load a model")
        reason = shortened(failed.error)
        logger.error("model load failed", extra={"model": worker.loading, "reason": reason})
        self._loop.loading.record_failed_load(
            worker, reason, out_of_memory=failed.out_of_memory, permanent=failed.permanent
        )

    def _take_leaving(self, leaving: worker_pb2.Leaving) -> None:
        self._check_session(leaving.session_id)
        grace_s = leaving.grace_ms / 1000 if leaving.HasField("grace_ms") else None
        logger.info("worker leaving", extra={"worker": self._hello.worker_id, "grace_s": grace_s})
        self._loop.attachments.let_worker_leave(self._worker)

    def _check_session(self, session_id: int) -> None:
        if session_id != self._worker.session_id:
            raise WorkerProtocolError(
                f"received a message with session_id {session_id} (expected: {self._worker.session_id})"
            )


def _task_of(worker: AttachedWorker | UnloadedWorker) -> Task | None:
    if isinstance(worker, UnloadedWorker):
        return Task(0, None) if worker.is_busy else None
    oldest = worker.steps.oldest
    return Task(oldest.step_id, oldest.work) if oldest else None


def _described(worker: AttachedWorker) -> dict[str, object]:
    info = worker.info
    return {
        "worker": info.worker_id,
        "session": worker.session_id,
        "model": info.model,
        "device": info.device,
        "numerics": info.numerics_id,
        "pages": info.limits.num_pages,
        "cached_pages": worker.pool.num_cached,
    }
