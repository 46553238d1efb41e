"""The gRPC border towards workers: serves the stream that a worker opens. Plans go down, results come up. No policy."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from protos.v1 import worker_pb2, worker_pb2_grpc
from scheduler.errors import WorkerProtocolError
from scheduler.loop import SchedulerLoop
from scheduler.worker_greeting import read_greeting
from scheduler.worker_stream import WorkerStream
from scheduler.worker_watch import Patience

SERVICE_NAME = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


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
        try:
            greeting = await read_greeting(messages, self._patience.silence_s)
        except WorkerProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            stream = WorkerStream(self._loop, greeting, heartbeat_s=self._heartbeat_s, patience=self._patience)
        except WorkerProtocolError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        tending = asyncio.create_task(stream.tend(messages))
        try:
            while (response := await stream.link.outgoing.get()) is not None:
                yield response
        finally:
            tending.cancel()
        end = tending.result()
        if end.status is not None:
            await context.abort(end.status, end.reason)
