"""One `Session` stream to a scheduler, from its opening to its end, and the requests that are at it.

Commands go out in the order in which they are given, events come in and are delivered; neither waits. scheduler_client.py opens
streams, and placement.py decides what becomes of a request that is refused.
"""

import asyncio
import contextlib
from collections.abc import Callable

import grpc

from gateway.errors import GatewayError, InvalidRequestError, from_grpc_code
from gateway.upstream.open_request import OpenRequest
from pagoda.process.background import end_tasks
from pagoda.rpc.grpc_channel import MAX_REQUEST_BYTES
from pagoda.wire.events import events_from_proto
from protos.v1 import inference_pb2, inference_pb2_grpc

OnRefusal = Callable[[OpenRequest, GatewayError], None]


def _too_large(num_bytes: int) -> GatewayError:
    return InvalidRequestError(
        f"The prompt and what was generated take {num_bytes} bytes, and a scheduler takes at most {MAX_REQUEST_BYTES} in one "
        "request: ask for fewer samples, or shorter ones."
    )


class SchedulerSession:
    """A `Place` for open requests."""

    def __init__(
        self, channel: grpc.aio.Channel, *, on_refusal: OnRefusal, on_shutting_down: Callable[[], None]
    ) -> None:
        """`on_refusal` is also called for requests that fail later; `on_shutting_down` before the refusals it causes."""
        self._stream = inference_pb2_grpc.InferenceServiceStub(channel).Session()
        self._on_refusal = on_refusal
        self._on_shutting_down = on_shutting_down
        self._requests: dict[str, OpenRequest] = {}
        # Bounded by the open requests: each puts in itself, its end, and one Finish per sample.
        self._outbox: asyncio.Queue[inference_pb2.SessionRequest] = asyncio.Queue()

    @property
    def requests(self) -> list[OpenRequest]:
        return list(self._requests.values())

    async def run_session(self) -> None:
        """Run until the stream breaks, or this is cancelled. Raises what failed, on either half: a session that can no longer write
        is as lost as one that hears nothing."""
        reading, writing = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            await reading
        finally:
            self._stream.cancel()
            await end_tasks(reading, writing)

    def abandon_requests(self) -> list[OpenRequest]:
        """Return the requests that were at it, which are nowhere now."""
        abandoned, self._requests = self.requests, {}
        for opened in abandoned:
            opened.leave_place()
        return abandoned

    def send_request(self, opened: OpenRequest) -> None:
        """Send it from where it had come to; its events are delivered to it.

        What no scheduler takes is refused here: there it would end the session, with all other requests."""
        message = inference_pb2.SessionRequest(open=opened.resumed_request().to_proto())
        if (size := message.ByteSize()) > MAX_REQUEST_BYTES:
            asyncio.get_running_loop().call_soon(self._on_refusal, opened, _too_large(size))
            return
        self._requests[opened.name] = opened
        self._send_command(message)
        opened.begin_at_place(self)

    def withdraw_request(self, opened: OpenRequest) -> None:
        """Give the request back, which will continue elsewhere."""
        self.forget_request(opened.name)
        opened.withdraw_request()

    def send_finish(self, name: str, sample_index: int, num_tokens: int) -> None:
        finish = inference_pb2.Finish(request_id=name, sample_index=sample_index, num_tokens=num_tokens)
        self._send_command(inference_pb2.SessionRequest(finish=finish))

    def send_cancel(self, name: str) -> None:
        self._send_command(inference_pb2.SessionRequest(cancel=inference_pb2.Cancel(request_id=name)))

    def forget_request(self, name: str) -> None:
        self._requests.pop(name, None)

    def _send_command(self, command: inference_pb2.SessionRequest) -> None:
        self._outbox.put_nowait(command)

    async def _read(self) -> None:
        async for response in self._stream:
            self._dispatch(response)

    async def _write(self) -> None:
        """Ends quietly with the stream: its reader reports why."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                message = await self._outbox.get()
                try:
                    await self._stream.write(message)
                except asyncio.CancelledError:
                    # gRPC reports a stream that was cancelled like this.
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise
                    return

    def _dispatch(self, response: inference_pb2.SessionResponse) -> None:
        for message in response.events:
            for event in events_from_proto(message):
                if (opened := self._requests.get(event.request_id)) is not None:
                    opened.deliver_event(event)
        for error in response.errors:
            if (opened := self._requests.pop(error.request_id, None)) is not None:
                opened.leave_place()
                if error.is_shutting_down:
                    self._on_shutting_down()
                retry_after_s = error.retry_after_s if error.HasField("retry_after_s") else None
                self._on_refusal(opened, from_grpc_code(error.code, error.message, retry_after_s))
