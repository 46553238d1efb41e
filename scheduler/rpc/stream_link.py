"""The link to one worker: the loop's commands as protobuf messages, queued for the worker's stream."""

import asyncio

from protos.v1 import worker_pb2
from scheduler.rpc.worker_messages import plan_to_proto
from scheduler.steps.step_plan import StepPlan


class StreamLink:
    """A `WorkerLink`, or a `LoadLink` while no model is loaded. The queue stays short, since at most two steps are in flight."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[worker_pb2.AttachResponse | None] = asyncio.Queue()
        self.may_end = False
        """True if a message was sent at which the worker ends the stream."""
        self._session_id = 0

    def send_attached(self, session_id: int, *, heartbeat_s: float, silence_s: float) -> None:
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
        step = plan_to_proto(plan, self._session_id)
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
        """End the stream after all queued messages are sent."""
        self.outgoing.put_nowait(None)
