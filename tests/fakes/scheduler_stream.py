"""A scheduler's end of the worker stream, played by a test: it welcomes workers and sends what the test queues."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from protos.v1 import worker_pb2, worker_pb2_grpc


class FakeSession:
    """The session of one attached worker. `None` in a queue ends that direction."""

    def __init__(self, session_id: int, hello: worker_pb2.Hello) -> None:
        self.session_id = session_id
        self.hello = hello
        self.held_blocks: list[worker_pb2.PageBlock] = []
        self.outgoing: asyncio.Queue[worker_pb2.AttachResponse | None] = asyncio.Queue()
        self.results: asyncio.Queue[worker_pb2.StepResult | None] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[worker_pb2.Heartbeat] = asyncio.Queue()
        self.failures: asyncio.Queue[worker_pb2.LoadFailed] = asyncio.Queue()
        self.leavings: asyncio.Queue[worker_pb2.Leaving] = asyncio.Queue()

    def send_step(self, step: worker_pb2.Step, *, session_id: int | None = None) -> None:
        step.session_id = self.session_id if session_id is None else session_id
        self.outgoing.put_nowait(worker_pb2.AttachResponse(step=step))

    def send_recall(self, step_id: int) -> None:
        recall = worker_pb2.Recall(session_id=self.session_id, step_id=step_id)
        self.outgoing.put_nowait(worker_pb2.AttachResponse(recall=recall))

    def send_heartbeat_ack(self) -> None:
        ack = worker_pb2.HeartbeatAck(session_id=self.session_id)
        self.outgoing.put_nowait(worker_pb2.AttachResponse(heartbeat_ack=ack))

    def send_drain(self) -> None:
        self.outgoing.put_nowait(worker_pb2.AttachResponse(drain=worker_pb2.Drain(session_id=self.session_id)))

    def send_unload(self) -> None:
        self.outgoing.put_nowait(worker_pb2.AttachResponse(unload=worker_pb2.Unload(session_id=self.session_id)))

    def send_load(self, name: str, digest: str = "") -> None:
        load = worker_pb2.Load(session_id=self.session_id, name=name, digest=digest)
        self.outgoing.put_nowait(worker_pb2.AttachResponse(load=load))

    def end(self) -> None:
        self.outgoing.put_nowait(None)

    async def result(self) -> worker_pb2.StepResult:
        result = await self.results.get()
        assert result is not None, "the worker ended its half of the stream"
        return result

    async def worker_left(self) -> None:
        assert await self.results.get() is None, "the worker sent a result instead of ending its half of the stream"


class FakeScheduler(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, heartbeat_interval_ms: int = 1000, silence_timeout_ms: int = 0) -> None:
        """Create the service. Without a timeout it may stay silent, as it answers no heartbeats."""
        self.sessions: asyncio.Queue[FakeSession] = asyncio.Queue()
        self._heartbeat_interval_ms = heartbeat_interval_ms
        self._silence_timeout_ms = silence_timeout_ms
        self._num_sessions = 0

    async def Attach(
        self,
        request_iterator: AsyncIterator[worker_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse],
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        messages = aiter(request_iterator)
        self._num_sessions += 1
        session = FakeSession(100 + self._num_sessions, (await anext(messages)).hello)
        for _ in range(session.hello.num_held_blocks_messages):
            session.held_blocks += (await anext(messages)).held_blocks.blocks
        attached = worker_pb2.Attached(
            session_id=session.session_id,
            heartbeat_interval_ms=self._heartbeat_interval_ms,
            silence_timeout_ms=self._silence_timeout_ms,
        )
        yield worker_pb2.AttachResponse(attached=attached)
        self.sessions.put_nowait(session)
        reading = asyncio.create_task(_read(messages, session))
        try:
            while (response := await session.outgoing.get()) is not None:
                yield response
        finally:
            reading.cancel()


async def _read(messages: AsyncIterator[worker_pb2.AttachRequest], session: FakeSession) -> None:
    async for message in messages:
        if message.HasField("step_result"):
            session.results.put_nowait(message.step_result)
        elif message.HasField("heartbeat"):
            session.heartbeats.put_nowait(message.heartbeat)
        elif message.HasField("load_failed"):
            session.failures.put_nowait(message.load_failed)
        elif message.HasField("leaving"):
            session.leavings.put_nowait(message.leaving)
    session.results.put_nowait(None)
    session.end()


@asynccontextmanager
async def serving(scheduler: FakeScheduler, address: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(scheduler, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=None)
