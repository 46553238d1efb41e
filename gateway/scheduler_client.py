"""The scheduler as the gateway sees it, and the only file that speaks gRPC.

All requests share one `Session` stream, which is opened again whenever it breaks. Requests that were open then go on in the
next one, where they had come to; new ones wait for it. Only an outage that lasts ends them, with UNAVAILABLE. Knows nothing
about text and HTTP.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.errors import ErrorKind, GatewayError, from_grpc_code, unavailable
from gateway.inference import InferenceRequest, Load, ModelInfo
from gateway.open_request import OpenRequest
from gateway.wire import events_from_proto, load_from_proto, model_from_proto, request_to_proto
from pagoda.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2

logger = logging.getLogger(__name__)

SERVICE_NAME = "protos.v1.InferenceService"
# A client whose unread events outgrow this is cancelled: about a minute of decoding at 30 tokens a second.
MAX_BUFFERED_EVENTS = 2048
UNARY_TIMEOUT_S = 5.0
# A model of many gigabytes from a slow disk.
LOAD_TIMEOUT_S = 600.0
RECONNECT_DELAY_S = 0.2
# What a scheduler says that has just started and whose workers are not back yet.
_PASSING_REFUSALS = (ErrorKind.UNAVAILABLE, ErrorKind.NOT_FOUND)

T = TypeVar("T")


class SchedulerClient:
    """Made by the process, started inside its event loop. `open` never waits; everything else is one call."""

    def __init__(
        self,
        address: str,
        *,
        max_buffered_events: int = MAX_BUFFERED_EVENTS,
        outage_grace_s: float,
    ) -> None:
        """Requests survive an outage of `outage_grace_s`."""
        self._address = address
        self._max_buffered_events = max_buffered_events
        self._outage_grace_s = outage_grace_s
        self._recovers_until = 0.0
        """By the event loop's clock: so long after it was lost a session may come back, and its scheduler to its workers."""
        self._giving_up: asyncio.TimerHandle | None = None
        self._open: dict[str, OpenRequest] = {}
        # Bounded by the open requests: each puts in itself, its end, and one Finish per sample.
        self._outbox: asyncio.Queue[inference_pb2.SessionRequest] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._health = "not connected"

    async def start(self) -> None:
        self._channel = open_channel(self._address)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._tasks = [asyncio.create_task(self._keep_session()), asyncio.create_task(self._keep_watching_health())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._give_up()
        await self._channel.close()

    @property
    def problem(self) -> str | None:
        """Why no request can be sent now; None when all is well."""
        if self._outbox is None:
            return f"the scheduler at {self._address} is not reachable"
        if self._health != "SERVING":
            return f"the scheduler is not serving yet (health: {self._health})"
        return None

    @property
    def is_recovering(self) -> bool:
        """What is missing now may soon be back."""
        return asyncio.get_running_loop().time() < self._recovers_until

    def open(self, request: InferenceRequest) -> OpenRequest:
        if self._outbox is None and not self.is_recovering:
            raise unavailable(f"The scheduler at {self._address} is not reachable.")
        opened = OpenRequest(request, self, max_buffered_events=self._max_buffered_events, on_closed=self._forget)
        self._open[request.request_id] = opened
        self._send_open(opened)
        return opened

    def finish(self, request_id: str, sample_index: int, num_tokens: int) -> None:
        self._send(
            inference_pb2.SessionRequest(
                finish=inference_pb2.Finish(
                    request_id=request_id,
                    sample_index=sample_index,
                    reason=types_pb2.FINISH_REASON_STOP,
                    num_tokens=num_tokens,
                )
            )
        )

    def cancel(self, request_id: str) -> None:
        self._send(inference_pb2.SessionRequest(cancel=inference_pb2.Cancel(request_id=request_id)))

    async def list_models(self) -> tuple[ModelInfo, ...]:
        call = self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=UNARY_TIMEOUT_S)
        response = await _or_gateway_error(call)
        return tuple(model_from_proto(model) for model in response.models)

    async def keep_loaded(self, model: str, keep_alive_s: float | None) -> None:
        """Returns when the model is in memory; with no time to stay at all, once that is known. Raises GatewayError."""
        request = inference_pb2.KeepLoadedRequest(model=model, keep_alive_s=keep_alive_s)
        await _or_gateway_error(self._stub.KeepLoaded(request, timeout=LOAD_TIMEOUT_S))

    async def get_load(self) -> Load:
        call = self._stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=UNARY_TIMEOUT_S)
        return load_from_proto(await _or_gateway_error(call))

    def _send_open(self, opened: OpenRequest) -> None:
        """Without a session it goes out with the next one."""
        if opened.request.request_id in self._open:
            self._send(inference_pb2.SessionRequest(open=request_to_proto(opened.resumption())))
            opened.repeat_finishes()

    def _send(self, command: inference_pb2.SessionRequest) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(command)

    def _forget(self, request_id: str) -> None:
        self._open.pop(request_id, None)

    async def _keep_session(self) -> None:
        while True:
            await self._channel.channel_ready()
            try:
                await self._run_session()
            except grpc.aio.AioRpcError as error:
                logger.warning("scheduler session lost", extra={"code": error.code().name, "details": error.details()})
            except Exception:
                logger.exception("scheduler session failed")
            await asyncio.sleep(RECONNECT_DELAY_S)

    async def _run_session(self) -> None:
        call = self._stub.Session()
        outbox = self._begin_session()
        writer = asyncio.create_task(_write(call, outbox))
        try:
            async for response in call:
                self._dispatch(response)
        finally:
            writer.cancel()
            call.cancel()
            self._begin_outage()

    def _begin_session(self) -> "asyncio.Queue[inference_pb2.SessionRequest]":
        outbox = self._outbox = asyncio.Queue()
        if self._giving_up is not None:
            self._giving_up.cancel()
        logger.info("scheduler session open", extra={"address": self._address, "resumed": len(self._open)})
        for opened in self._open.values():
            opened.is_resumed = True
            self._send_open(opened)
        return outbox

    def _begin_outage(self) -> None:
        self._outbox = None
        loop = asyncio.get_running_loop()
        self._recovers_until = loop.time() + self._outage_grace_s
        self._giving_up = loop.call_at(self._recovers_until, self._give_up)

    def _give_up(self) -> None:
        for opened in list(self._open.values()):
            opened.fail(unavailable("The connection to the scheduler was lost."))

    def _dispatch(self, response: inference_pb2.SessionResponse) -> None:
        for message in response.events:
            for request_id, event in events_from_proto(message):
                if (opened := self._open.get(request_id)) is not None:
                    opened.deliver(event)
        for error in response.errors:
            if (opened := self._open.get(error.request_id)) is not None:
                retry_after_s = error.retry_after_s if error.HasField("retry_after_s") else None
                self._end(opened, from_grpc_code(error.code, error.message, retry_after_s))

    def _end(self, opened: OpenRequest, error: GatewayError) -> None:
        had_place = opened.is_resumed and error.kind is ErrorKind.OVERLOADED
        if self.is_recovering and (error.kind in _PASSING_REFUSALS or had_place):
            asyncio.get_running_loop().call_later(RECONNECT_DELAY_S, self._send_again, opened, self._outbox)
        else:
            opened.fail(error)

    def _send_again(self, opened: OpenRequest, outbox: "asyncio.Queue[inference_pb2.SessionRequest] | None") -> None:
        """In the same session; a later one begins with all that is open."""
        if self._outbox is outbox:
            self._send_open(opened)

    async def _keep_watching_health(self) -> None:
        watched = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        while True:
            await self._channel.channel_ready()
            try:
                async for response in health_pb2_grpc.HealthStub(self._channel).Watch(watched):
                    self._health = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
            except grpc.aio.AioRpcError as error:
                logger.debug("health watch lost", extra={"code": error.code().name})
            self._health = "not connected"
            await asyncio.sleep(RECONNECT_DELAY_S)


async def _write(
    call: "grpc.aio.StreamStreamCall[inference_pb2.SessionRequest, inference_pb2.SessionResponse]",
    outbox: asyncio.Queue[inference_pb2.SessionRequest],
) -> None:
    """Ends quietly with the stream: its reader reports why."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await outbox.get())


async def _or_gateway_error(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _gateway_error(error) from None


def _gateway_error(error: grpc.aio.AioRpcError) -> GatewayError:
    return from_grpc_code(error.code().value[0], error.details() or error.code().name)
