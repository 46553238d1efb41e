"""The gRPC border towards workers: serves the stream that a worker opens. Plans go down, results come up. No policy."""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc

from protos.v1 import worker_pb2, worker_pb2_grpc
from scheduler.errors import SilentWorkerError, WorkerIDTakenError, WorkerProtocolError
from scheduler.faults.worker_watch import Patience
from scheduler.loop import SchedulerLoop
from scheduler.rpc.worker_greeting import read_greeting
from scheduler.rpc.worker_stream import WorkerStream

logger = logging.getLogger(__name__)

SERVICE_NAME = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, loop: SchedulerLoop, *, heartbeat_s: float, patience: Patience) -> None:
        """Workers are asked for a heartbeat every `heartbeat_s`."""
        self._loop = loop
        self._heartbeat_s = heartbeat_s
        self._patience = patience
        self._streams: dict[str, WorkerStream] = {}
        """By worker id."""

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
        tending = asyncio.create_task(stream.tend(messages))
        try:
            while (response := await stream.link.outgoing.get()) is not None:
                yield response
        finally:
            tending.cancel()
            if self._streams.get(greeting.hello.worker_id) is stream:
                del self._streams[greeting.hello.worker_id]
        end = tending.result()
        if end.status is not None:
            await context.abort(end.status, end.reason)

    async def _claim_place(self, hello: worker_pb2.Hello) -> None:
        """Return once no other stream has the worker's name. Raises WorkerIDTakenError while another process has it and lives.

        A process that was restarted finds its predecessor's stream broken, or waits until it is known to be dead; one that was
        frozen finds its successor attached; and of two that live the first one stays.
        """
        while (current := self._streams.get(hello.worker_id)) is not None and not current.has_ended:
            if current.is_of_process(hello):
                current.replace()
                return
            if current.epoch > hello.epoch:
                problem = f"a process that started later is attached as {hello.worker_id!r}"
            elif await current.outlives_question():
                problem = f"another process is attached as {hello.worker_id!r}, and it is alive"
            else:
                continue
            problem = f"{problem}: end one of the two, or give this one a name of its own (--worker-id)"
            current.note_refusal(hello, problem)
            raise WorkerIDTakenError(problem)
