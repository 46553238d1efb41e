"""One scheduler as the gateway sees it, and the only file that speaks gRPC.

All requests at a scheduler share one `Session` stream, which is opened again whenever it breaks; only a scheduler that answers
gets one. While it is open the scheduler is asked again and again what it serves and how much it has to do: one that leaves this
unanswered is as lost as one whose stream broke. Where requests go is not decided here (schedulers.py). Knows nothing about text
and HTTP.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.errors import ErrorKind, GatewayError, from_grpc_code
from gateway.inference import Load, ModelInfo
from gateway.open_request import OpenRequest
from gateway.wire import events_from_proto, load_from_proto, model_from_proto, request_to_proto
from pagoda.grpc_channel import LOCAL_ONLY, open_channel, until_ready
from pagoda.transport_security import TransportSecurity
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2

logger = logging.getLogger(__name__)

SERVICE_NAME = "protos.v1.InferenceService"
ASK_INTERVAL_S = 1.0
# Two in a row: one may have been lost to a pause of this process, not of the scheduler.
MAX_UNANSWERED = 2
# A model of many gigabytes from a slow disk.
LOAD_TIMEOUT_S = 600.0
RECONNECT_DELAY_S = 0.2

T = TypeVar("T")


class SessionListener(Protocol):
    """Who decides what becomes of the requests that a scheduler does not serve to their end."""

    def refused(self, client: "SchedulerClient", opened: OpenRequest, error: GatewayError) -> None: ...

    def lost(self, client: "SchedulerClient", requests: list[OpenRequest]) -> None:
        """The session is, and with it these."""

    def stopped_serving(self, client: "SchedulerClient") -> None:
        """It drains, or its last worker has left. The session goes on."""

    def stranded(self, client: "SchedulerClient", requests: list[OpenRequest]) -> None:
        """They are still there, but no worker for them has been for some time."""

    def changed(self) -> None:
        """A request may be taken that would not have been taken before."""


class SchedulerClient:
    """A `Place` for open requests. Made by the process, started inside its event loop."""

    def __init__(
        self,
        address: str,
        listener: SessionListener,
        *,
        silence_s: float,
        security: TransportSecurity = LOCAL_ONLY,
    ) -> None:
        """Lost is who answers nothing for about `silence_s`."""
        self.address = address
        self.models: dict[str, ModelInfo] = {}
        """That it has workers for, as it said last, by name. None while it is lost."""
        self.known: dict[str, ModelInfo] = {}
        """The same, and also what it said before it was lost."""
        self.load: Load | None = None
        self._listener = listener
        self._security = security
        self._answer_limit_s = silence_s / MAX_UNANSWERED
        self._open: dict[str, OpenRequest] = {}
        self._num_sent_tokens = self._num_sent_sequences = 0
        """What it got since what `load` tells of: uncached tokens, and samples."""
        # Bounded by the open requests: each puts in itself, its end, and one Finish per sample.
        self._outbox: asyncio.Queue[inference_pb2.SessionRequest] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._health = "not connected"
        self._has_changed = asyncio.Event()
        """By its health: its workers have come or gone, so what it said of them is old."""

    async def start(self) -> None:
        self._channel = open_channel(self.address, self._security)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._tasks = [asyncio.create_task(self._keep_session()), asyncio.create_task(self._keep_watching_health())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    @property
    def is_connected(self) -> bool:
        return self._outbox is not None

    @property
    def problem(self) -> str | None:
        """Why it can take no request now; None when all is well."""
        if not self.is_connected:
            return f"the scheduler at {self.address} is not reachable"
        if self._health != "SERVING":
            return f"the scheduler at {self.address} is not serving yet (health: {self._health})"
        return None

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def num_pending_tokens(self) -> int:
        """What it said, and what it got since."""
        return self._num_sent_tokens + (self.load.num_pending_tokens if self.load else 0)

    @property
    def num_sequences(self) -> int:
        """The same, that wait there or run."""
        return self._num_sent_sequences + (self.load.num_waiting + self.load.num_running if self.load else 0)

    def take(self, opened: OpenRequest, num_uncached_tokens: int) -> None:
        """Send it from where it had come to; its events are delivered to it. So many of its tokens are to be computed."""
        self._open[opened.name] = opened
        self._num_sent_tokens += num_uncached_tokens
        self._num_sent_sequences += opened.request.num_samples
        self._send(inference_pb2.SessionRequest(open=request_to_proto(opened.resumption())))
        opened.begin_at(self)

    def finish(self, name: str, sample_index: int, num_tokens: int) -> None:
        self._send(
            inference_pb2.SessionRequest(
                finish=inference_pb2.Finish(
                    request_id=name,
                    sample_index=sample_index,
                    reason=types_pb2.FINISH_REASON_STOP,
                    num_tokens=num_tokens,
                )
            )
        )

    def cancel(self, name: str) -> None:
        self._send(inference_pb2.SessionRequest(cancel=inference_pb2.Cancel(request_id=name)))

    def forget(self, name: str) -> None:
        self._open.pop(name, None)

    def withdraw(self, opened: OpenRequest) -> None:
        """It will go on elsewhere."""
        self.forget(opened.name)
        opened.withdraw()

    async def list_models(self, timeout_s: float) -> tuple[ModelInfo, ...]:
        call = self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=timeout_s)
        models = (await _or_gateway_error(call)).models
        return tuple(map(model_from_proto, models))

    async def get_load(self, timeout_s: float) -> Load:
        call = self._stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=timeout_s)
        return load_from_proto(await _or_gateway_error(call))

    async def keep_loaded(self, model: str, keep_alive_s: float | None) -> None:
        """Returns when the model is in memory; with no time to stay at all, once that is known. Raises GatewayError."""
        request = inference_pb2.KeepLoadedRequest(model=model, keep_alive_s=keep_alive_s)
        await _or_gateway_error(self._stub.KeepLoaded(request, timeout=LOAD_TIMEOUT_S))

    def _send(self, command: inference_pb2.SessionRequest) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(command)

    async def _keep_session(self) -> None:
        while True:
            await until_ready(self._channel, self.address, self._security)
            try:
                await self._ask()
                await self._run_session()
            except GatewayError as error:
                logger.debug("scheduler does not answer", extra={"address": self.address, "reason": error.message})
            except TimeoutError:
                logger.warning("scheduler silent, session given up", extra={"address": self.address})
            except grpc.aio.AioRpcError as error:
                told = {"address": self.address, "code": error.code().name, "details": error.details()}
                logger.warning("scheduler session lost", extra=told)
            except Exception:
                logger.exception("scheduler session failed")
            await asyncio.sleep(RECONNECT_DELAY_S)

    async def _run_session(self) -> None:
        """Until it breaks; TimeoutError when the scheduler falls silent."""
        call = self._stub.Session()
        outbox = self._outbox = asyncio.Queue()
        logger.info("scheduler session open", extra={"address": self.address})
        self._listener.changed()
        tasks = [asyncio.create_task(_write(call, outbox))]
        try:
            async with asyncio.timeout(None) as silence:
                tasks.append(asyncio.create_task(self._keep_asking(silence)))
                async for response in call:
                    self._dispatch(response)
        finally:
            for task in tasks:
                task.cancel()
            call.cancel()
            self._lose_session()

    def _lose_session(self) -> None:
        lost, self._open = list(self._open.values()), {}
        self._outbox, self.models, self.load = None, {}, None
        self._num_sent_tokens = self._num_sent_sequences = 0
        for opened in lost:
            opened.leave()
        self._listener.lost(self, lost)

    async def _keep_asking(self, silence: asyncio.Timeout) -> None:
        """Ends the session when the scheduler leaves too much unanswered."""
        num_unanswered = 0
        while num_unanswered < MAX_UNANSWERED:
            try:
                if num_unanswered == 0:
                    await self._until_due()
                await self._ask()
                num_unanswered = 0
            except GatewayError as error:
                # Any other error is an answer too, or the session will hear of it.
                num_unanswered = num_unanswered + 1 if error.kind is ErrorKind.DEADLINE_EXCEEDED else 0
        silence.reschedule(asyncio.get_running_loop().time())

    async def _until_due(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_INTERVAL_S):
                await self._has_changed.wait()
        self._has_changed.clear()

    async def _ask(self) -> None:
        num_tokens, num_sequences = self._num_sent_tokens, self._num_sent_sequences
        models = await self.list_models(self._answer_limit_s)
        self.load = await self.get_load(self._answer_limit_s)
        # What was sent before is in the answer.
        self._num_sent_tokens -= num_tokens
        self._num_sent_sequences -= num_sequences
        before, self.models = self.models, {model.name: model for model in models if model.is_served}
        self.known |= self.models
        if self.models.keys() != before.keys():
            self._listener.changed()
        # In two answers in a row, since workers come and go.
        served = before.keys() | self.models.keys()
        if stranded := [opened for opened in self._open.values() if opened.request.model not in served]:
            self._listener.stranded(self, stranded)

    def _dispatch(self, response: inference_pb2.SessionResponse) -> None:
        for message in response.events:
            for request_id, event in events_from_proto(message):
                if (opened := self._open.get(request_id)) is not None:
                    opened.deliver(event)
        for error in response.errors:
            if (opened := self._open.pop(error.request_id, None)) is not None:
                opened.leave()
                if error.is_shutting_down:
                    # Its health says so too, in a stream of its own: perhaps later.
                    self._set_health("shutting down")
                retry_after_s = error.retry_after_s if error.HasField("retry_after_s") else None
                self._listener.refused(self, opened, from_grpc_code(error.code, error.message, retry_after_s))

    async def _keep_watching_health(self) -> None:
        watched = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        while True:
            await self._channel.channel_ready()
            try:
                async for response in health_pb2_grpc.HealthStub(self._channel).Watch(watched):
                    self._set_health(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
            except grpc.aio.AioRpcError as error:
                logger.debug("health watch lost", extra={"code": error.code().name})
            self._set_health("not connected")
            await asyncio.sleep(RECONNECT_DELAY_S)

    def _set_health(self, health: str) -> None:
        before, self._health = self._health, health
        if before == "SERVING" != health:
            self._listener.stopped_serving(self)
        self._has_changed.set()
        self._listener.changed()


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
        raise from_grpc_code(error.code().value[0], error.details() or error.code().name) from None
