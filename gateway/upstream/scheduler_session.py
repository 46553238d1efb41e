"""One `Session` stream to a scheduler, from its opening to its end, and the requests that it serves.

Commands are sent in order, and events are delivered as they arrive; neither waits for the other. scheduler_client.py opens
streams, and placement.py handles refused requests.
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
        f"The prompt and the generated tokens take {num_bytes} bytes; a request to a scheduler may take at most "
        f"{MAX_REQUEST_BYTES}. Request fewer or shorter samples."
    )


class SchedulerSession:
    """The session with a scheduler, and the `Place` of its open requests."""

    def __init__(
        self, channel: grpc.aio.Channel, *, on_refusal: OnRefusal, on_shutting_down: Callable[[], None]
    ) -> None:
        """Open the stream.

        `on_refusal` is also called for requests that fail after they were accepted. `on_shutting_down` is called before the
        refusals that a shutdown causes.
        """
        self._stream = inference_pb2_grpc.InferenceServiceStub(channel).Session()
        self._on_refusal = on_refusal
        self._on_shutting_down = on_shutting_down
        self._requests: dict[str, OpenRequest] = {}
        # Bounded by the open requests: each adds itself, its end, and one Finish per sample.
        self._outbox: asyncio.Queue[inference_pb2.SessionRequest] = asyncio.Queue()

    @property
    def requests(self) -> list[OpenRequest]:
        return list(self._requests.values())

    async def run_session(self) -> None:
        """Run the session until its stream breaks or it is cancelled. Raises the error of reading or writing that broke it."""
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
        """Detach all requests from the session and return them."""
        abandoned, self._requests = self.requests, {}
        for opened in abandoned:
            opened.leave_place()
        return abandoned

    def send_request(self, opened: OpenRequest) -> None:
        """Send the request with its tokens so far. Its events are delivered to it.

        A message that is too large is refused here: at the scheduler it would end the session with all its requests.
        """
        message = inference_pb2.SessionRequest(open=opened.resumed_request().to_proto())
        if (size := message.ByteSize()) > MAX_REQUEST_BYTES:
            asyncio.get_running_loop().call_soon(self._on_refusal, opened, _too_large(size))
            return
        self._requests[opened.name] = opened
        self._send_command(message)
        opened.begin_at_place(self)

    def withdraw_request(self, opened: OpenRequest) -> None:
        """Detach the request, which resumes on another scheduler."""
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
        """Send the queued commands. End without an error if the stream ends, because its reader reports the reason."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                message = await self._outbox.get()
                try:
                    await self._stream.write(message)
                except asyncio.CancelledError:
                    # gRPC raises this for a cancelled stream too.
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
