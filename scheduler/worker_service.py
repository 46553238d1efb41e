"""The gRPC border towards workers: serves the stream that a worker opens. Plans go down, results come up. No policy."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc

from kvcache.block_hash import HASH_BYTES, BlockHash
from kvcache.page_pool import PageId
from protos.v1 import worker_pb2, worker_pb2_grpc
from scheduler import worker_messages
from scheduler.errors import WorkerProtocolError
from scheduler.loop import SchedulerLoop
from scheduler.step_plan import StepPlan
from scheduler.unloaded_workers import UnloadedWorker
from scheduler.worker_info import LoadableModels
from scheduler.worker_state import AttachedWorker
from scheduler.worker_watch import Patience, Task, WorkerWatch

SERVICE_NAME = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name

# A worker waits this many times longer for its scheduler than the other way round: a scheduler that is late is late for all its
# workers, and they would all leave at once.
SCHEDULER_SILENCE = 1.5

logger = logging.getLogger(__name__)


class StreamEnd(NamedTuple):
    reason: str
    status: grpc.StatusCode | None = None
    """None where the worker ended it."""


WORKER_LEFT = StreamEnd("the worker ended the stream")


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, loop: SchedulerLoop, *, heartbeat_s: float, patience: Patience) -> None:
        """Workers are asked for a heartbeat every `heartbeat_s`."""
        self._loop = loop
        self._heartbeat_s = heartbeat_s
        self._patience = patience

    async def Attach(
        self,
        request_iterator: AsyncIterator[worker_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse],
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        messages = aiter(request_iterator)
        hello = await self._read_hello(messages, context)
        held_blocks = await self._read_held_blocks(hello, messages, context)
        link = StreamLink()
        worker = self._attach(hello, link, held_blocks)
        silence_s = self._patience.silence_s * SCHEDULER_SILENCE
        link.begin(worker.session_id, heartbeat_s=self._heartbeat_s, silence_s=silence_s)
        tending = asyncio.create_task(self._tend(worker, hello, link, messages))
        try:
            while (response := await link.outgoing.get()) is not None:
                yield response
        finally:
            tending.cancel()
        end = tending.result()
        if end.status is not None:
            await context.abort(end.status, end.reason)

    async def _tend(
        self,
        worker: AttachedWorker | UnloadedWorker,
        hello: worker_pb2.Hello,
        link: "StreamLink",
        messages: AsyncIterator[worker_pb2.AttachRequest],
    ) -> StreamEnd:
        """Listen to the worker until it has left or is lost. It is detached then, even if its stream will not take the end:
        to one that stands still nothing can be written."""
        watch = WorkerWatch(self._patience, self._heartbeat_s / 2)
        reading = asyncio.create_task(self._read(worker, hello, link, watch, messages))
        watching = asyncio.create_task(_watch(worker, watch, self._heartbeat_s / 2))
        end = StreamEnd("the stream was cancelled")
        try:
            await asyncio.wait([reading, watching], return_when=asyncio.FIRST_COMPLETED)
            end = (reading if reading.done() else watching).result()
        finally:
            reading.cancel()
            watching.cancel()
            self._detach(worker, hello.worker_id, link, end)
            link.close()
        return end

    def _attach(
        self, hello: worker_pb2.Hello, link: "StreamLink", held_blocks: list[tuple[PageId, BlockHash]]
    ) -> AttachedWorker | UnloadedWorker:
        store = (
            worker_messages.store_from_proto(hello, hello.loadable_models)
            if hello.HasField("loadable_models")
            else None
        )
        if not hello.HasField("model"):
            logger.info("worker attached without a model", extra={"worker": hello.worker_id})
            return self._loop.attach_unloaded(hello.worker_id, store or LoadableModels(), link)
        worker = self._loop.attach(worker_messages.worker_info_from_proto(hello), link, held_blocks, store)
        logger.info("worker attached", extra=_described(worker))
        return worker

    def _detach(
        self, worker: AttachedWorker | UnloadedWorker, worker_id: str, link: "StreamLink", end: StreamEnd
    ) -> None:
        fields = {"worker": worker_id, "reason": end.reason}
        if link.may_end:
            logger.info("worker left", extra=fields)
        else:
            logger.warning("worker lost", extra=fields)
        if isinstance(worker, AttachedWorker):
            self._loop.detach(worker)
        else:
            self._loop.models.detach_unloaded(worker, is_lost=end is not WORKER_LEFT)

    async def _read_hello(
        self,
        messages: AsyncIterator[worker_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse],
    ) -> worker_pb2.Hello:
        async with asyncio.timeout(self._patience.silence_s):
            first = await anext(messages)
        if first.WhichOneof("message") != "hello" or not first.hello.worker_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a Hello with a worker_id")
        model, store = first.hello.model, first.hello.loadable_models
        if first.hello.HasField("model") and not (model.name and model.page_size and model.num_pages):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Hello must name the model in memory, and its pages")
        if not all(each.name and each.page_size for each in store.models):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "Hello must name loadable models, and their page size"
            )
        return first.hello

    async def _read_held_blocks(
        self,
        hello: worker_pb2.Hello,
        messages: AsyncIterator[worker_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse],
    ) -> list[tuple[PageId, BlockHash]]:
        """What the worker's pages have kept, in the order in which it learned it."""
        held_blocks: list[tuple[PageId, BlockHash]] = []
        for _ in range(hello.num_held_blocks_messages):
            async with asyncio.timeout(self._patience.silence_s):
                message = await anext(messages)
            held_blocks += worker_messages.held_blocks_from_proto(message.held_blocks)
            if message.WhichOneof("message") != "held_blocks":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "fewer HeldBlocks than Hello said")
            if any(page >= hello.model.num_pages or len(block) != HASH_BYTES for page, block in held_blocks):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "HeldBlocks name pages or blocks that cannot be")
            if len(held_blocks) > hello.model.num_pages:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "HeldBlocks name more pages than there are")
        return held_blocks

    async def _read(
        self,
        worker: AttachedWorker | UnloadedWorker,
        hello: worker_pb2.Hello,
        link: "StreamLink",
        watch: WorkerWatch,
        messages: AsyncIterator[worker_pb2.AttachRequest],
    ) -> StreamEnd:
        try:
            async for message in messages:
                watch.heard()
                self._take(worker, hello, link, watch, message)
        except WorkerProtocolError as error:
            return StreamEnd(str(error), grpc.StatusCode.FAILED_PRECONDITION)
        return WORKER_LEFT

    def _take(
        self,
        worker: AttachedWorker | UnloadedWorker,
        hello: worker_pb2.Hello,
        link: "StreamLink",
        watch: WorkerWatch,
        message: worker_pb2.AttachRequest,
    ) -> None:
        """Raises WorkerProtocolError on nonsense, and when a step failed."""
        match message.WhichOneof("message"), worker:
            case "step_result", AttachedWorker():
                result = message.step_result
                _check_session(result.session_id, worker)
                if result.error:
                    raise WorkerProtocolError(f"step {result.step_id} failed: {result.error}")
                work = worker.in_flight[0].work if worker.in_flight else 0
                self._loop.apply(worker, worker_messages.result_from_proto(result))
                watch.ran(work, result.step_us / 1e6)
            case "load_failed", UnloadedWorker():
                failed = message.load_failed
                _check_session(failed.session_id, worker)
                logger.error("model not loaded", extra={"model": worker.loading, "reason": failed.error})
                self._loop.models.load_failed(worker, failed.error, out_of_memory=failed.out_of_memory)
            case "loadable_models", _:
                store = worker_messages.store_from_proto(hello, message.loadable_models)
                self._loop.models.store_changed(hello.worker_id, store)
            case "leaving", _:
                leaving = message.leaving
                _check_session(leaving.session_id, worker)
                grace_s = leaving.grace_ms / 1000 if leaving.HasField("grace_ms") else None
                logger.info("worker leaves", extra={"worker": hello.worker_id, "grace_s": grace_s})
                self._loop.leave(worker)
            case "heartbeat", _:
                if message.heartbeat.HasField("available_bytes"):
                    self._loop.models.memory_changed(hello.worker_id, message.heartbeat.available_bytes)
                link.send_heartbeat_ack()
            case other, _:
                raise WorkerProtocolError(f"unexpected message {other!r}")


async def _watch(worker: AttachedWorker | UnloadedWorker, watch: WorkerWatch, tick_s: float) -> StreamEnd:
    while True:
        await asyncio.sleep(tick_s)
        if reason := watch.tick(_task_of(worker)):
            return StreamEnd(reason, grpc.StatusCode.DEADLINE_EXCEEDED)


def _task_of(worker: AttachedWorker | UnloadedWorker) -> Task | None:
    if isinstance(worker, UnloadedWorker):
        return Task(0, None) if worker.is_busy else None
    oldest = worker.in_flight[0] if worker.in_flight else None
    return Task(oldest.step_id, oldest.work) if oldest else None


class StreamLink:
    """Messages for one worker, in order, until the stream takes them. At most two steps are in flight, so it stays short."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[worker_pb2.AttachResponse | None] = asyncio.Queue()
        self.may_end = False
        """The worker has been told something at which it ends the stream."""
        self._session_id = 0

    def begin(self, session_id: int, *, heartbeat_s: float, silence_s: float) -> None:
        self._session_id = session_id
        attached = worker_pb2.Attached(
            session_id=session_id,
            heartbeat_interval_ms=round(heartbeat_s * 1000),
            silence_timeout_ms=round(silence_s * 1000),
        )
        self.outgoing.put_nowait(worker_pb2.AttachResponse(attached=attached))

    def send_heartbeat_ack(self) -> None:
        ack = worker_pb2.HeartbeatAck(session_id=self._session_id)
        self.outgoing.put_nowait(worker_pb2.AttachResponse(heartbeat_ack=ack))

    def send_step(self, plan: StepPlan) -> None:
        step = worker_messages.plan_to_proto(plan, self._session_id)
        self.outgoing.put_nowait(worker_pb2.AttachResponse(step=step))

    def send_recall(self, step_id: int) -> None:
        recall = worker_pb2.Recall(session_id=self._session_id, step_id=step_id)
        self.outgoing.put_nowait(worker_pb2.AttachResponse(recall=recall))

    def send_unload(self) -> None:
        self._send_last(worker_pb2.AttachResponse(unload=worker_pb2.Unload(session_id=self._session_id)))

    def send_load(self, model: str, digest: str) -> None:
        load = worker_pb2.Load(session_id=self._session_id, name=model, digest=digest)
        self._send_last(worker_pb2.AttachResponse(load=load))

    def send_drain(self) -> None:
        self._send_last(worker_pb2.AttachResponse(drain=worker_pb2.Drain(session_id=self._session_id)))

    def _send_last(self, message: worker_pb2.AttachResponse) -> None:
        self.may_end = True
        self.outgoing.put_nowait(message)

    def close(self) -> None:
        """Everything put so far still goes out, then the stream ends."""
        self.outgoing.put_nowait(None)


def _check_session(session_id: int, worker: AttachedWorker | UnloadedWorker) -> None:
    if session_id != worker.session_id:
        raise WorkerProtocolError(f"a message of session {session_id} in session {worker.session_id}")


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
