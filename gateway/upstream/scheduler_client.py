"""One scheduler as the gateway sees it: whether it is there, what it says of itself, and the way to it.

Only a scheduler that answers gets a session, which is opened again whenever it breaks. While it is open the scheduler is asked
again and again what it serves and how much it has to do: one that leaves this unanswered is as lost as one whose stream broke.
scheduler_session.py has the stream's messages, placement.py decides where requests go.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Protocol, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.errors import ErrorKind, GatewayError, from_grpc_code, unavailable
from gateway.upstream.open_request import OpenRequest
from gateway.upstream.scheduler_session import SchedulerSession
from pagoda.process.background import end_tasks, keep_running
from pagoda.rpc.grpc_channel import LOCAL_ONLY, LastingChannel
from pagoda.rpc.transport_security import TransportSecurity
from pagoda.wire.load import SchedulerLoad
from pagoda.wire.model_info import ModelInfo
from protos.v1 import inference_pb2, inference_pb2_grpc

logger = logging.getLogger(__name__)

SERVICE_NAME = "protos.v1.InferenceService"
ASK_INTERVAL_S = 1.0
# Two in a row: one may have been lost to a pause of this process, not of the scheduler.
MAX_UNANSWERED = 2
RECONNECT_DELAY_S = 0.2
# A model of many gigabytes from a slow disk.
LOAD_TIMEOUT_S = 600.0

T = TypeVar("T")


class NotWelcomeError(GatewayError):
    """The scheduler refuses this gateway itself, not one of its clients: whoever runs them has to see to it."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorKind.UNAVAILABLE, "The scheduler refuses this gateway.", retry_after_s=1.0)
        self.reason = reason


class SchedulerCalls:
    """What a scheduler is asked in one message and answers in one. Requests for text have the session's stream instead.

    Each raises GatewayError where the answer is an error, or does not come in time.
    """

    def __init__(self, channel: LastingChannel) -> None:
        self._channel = channel

    @property
    def _stub(self) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        return inference_pb2_grpc.InferenceServiceStub(self._channel.current)

    async def list_models(self, timeout_s: float) -> tuple[ModelInfo, ...]:
        call = self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=timeout_s)
        return tuple(map(ModelInfo.from_proto, (await _or_gateway_error(call)).models))

    async def get_load(self, timeout_s: float) -> SchedulerLoad:
        call = self._stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=timeout_s)
        return SchedulerLoad.from_proto(await _or_gateway_error(call))

    async def keep_loaded(self, model: str, keep_alive_s: float | None, *, may_unload: bool) -> None:
        """Returns when the model is in memory; with no time to stay at all, once that is known."""
        request = inference_pb2.KeepLoadedRequest(
            model=model, keep_alive_s=keep_alive_s, keep_alive_only_prolongs=not may_unload
        )
        await _or_gateway_error(self._stub.KeepLoaded(request, timeout=LOAD_TIMEOUT_S))


class SchedulerListener(Protocol):
    """Who decides what becomes of the requests that a scheduler does not serve to their end."""

    def on_refused_request(self, client: "SchedulerClient", opened: OpenRequest, error: GatewayError) -> None: ...

    def on_lost_session(self, client: "SchedulerClient", requests: list[OpenRequest]) -> None:
        """The session was lost, and with it these requests."""

    def on_stranded_requests(self, client: "SchedulerClient", requests: list[OpenRequest]) -> None:
        """The requests are still there, but for some time there has been no worker for them."""

    def on_change(self) -> None:
        """A request may be taken that would not have been taken before."""


class SchedulerClient:
    """Made by the process, started inside its event loop."""

    def __init__(self, address: str, *, silence_s: float, security: TransportSecurity = LOCAL_ONLY) -> None:
        """Lost is who answers nothing for about `silence_s`."""
        self.address = address
        self.models: dict[str, ModelInfo] = {}
        """That it has workers for, as it said last, by name. None while it is lost."""
        self.known: dict[str, ModelInfo] = {}
        """The same, and also what it said before it was lost."""
        self.load: SchedulerLoad | None = None
        self.failed_at_s = float("-inf")
        """By the event loop's clock: when it was last lost, began to drain, or saw its last worker leave."""
        self._security = security
        self._answer_limit_s = silence_s / MAX_UNANSWERED
        self._session: SchedulerSession | None = None
        self._num_sent_tokens = self._num_sent_sequences = 0
        """What it got since what `load` tells of: uncached tokens, and samples."""
        self._health = "not connected"
        self._refusal = ""
        """Why the scheduler refuses this gateway, if it does."""
        self._has_changed = asyncio.Event()
        """By its health: its workers have come or gone, so what it said of them is old."""

    async def start(self, listener: SchedulerListener) -> None:
        self._listener = listener
        self._channel = LastingChannel(self.address, self._security)
        self.calls = SchedulerCalls(self._channel)
        self._connecting = keep_running(f"session with {self.address}", self._keep_session)

    async def close(self) -> None:
        await end_tasks(self._connecting)
        await self._channel.close()

    @property
    def is_connected(self) -> bool:
        return self._session is not None

    @property
    def problem(self) -> str | None:
        """Why it can take no request now; None when all is well."""
        if self._refusal:
            return f"the scheduler at {self.address} refuses this gateway"
        if not self.is_connected:
            return f"the scheduler at {self.address} is not reachable"
        if self._health != "SERVING":
            return f"the scheduler at {self.address} is not serving yet (health: {self._health})"
        return None

    @property
    def num_open(self) -> int:
        return len(self._session.requests) if self._session else 0

    @property
    def num_pending_tokens(self) -> int:
        """The tokens that it said are to be computed, and those that it was sent since."""
        return self._num_sent_tokens + (self.load.num_pending_tokens if self.load else 0)

    @property
    def num_sequences(self) -> int:
        """The sequences that it said wait there or run, and those that it was sent since."""
        return self._num_sent_sequences + (self.load.num_waiting + self.load.num_running if self.load else 0)

    def send_request(self, opened: OpenRequest, num_uncached_tokens: int) -> None:
        """Send the request, while the session is open. So many of its tokens are to be computed."""
        assert self._session is not None
        self._num_sent_tokens += num_uncached_tokens
        self._num_sent_sequences += opened.request.num_samples
        self._session.send_request(opened)

    def withdraw_request(self, opened: OpenRequest) -> None:
        assert self._session is not None
        self._session.withdraw_request(opened)

    # ---- the session

    async def _keep_session(self) -> None:
        while True:
            await self._channel.until_ready()
            try:
                await self._ask_models_and_load()
                await self._run_session()
            except NotWelcomeError as error:
                self._log_refusal(error.reason)
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
        """Run the session until it breaks. Raises TimeoutError when the scheduler falls silent."""
        session = self._session = SchedulerSession(
            self._channel.current,
            on_refusal=lambda opened, error: self._listener.on_refused_request(self, opened, error),
            # Its health says so too, in a stream of its own: perhaps later.
            on_shutting_down=lambda: self._set_health("shutting down"),
        )
        self._refusal = ""
        logger.info("scheduler session open", extra={"address": self.address})
        self._listener.on_change()
        tasks = [keep_running(f"health watch of {self.address}", self._keep_watching_health)]
        try:
            async with asyncio.timeout(None) as silence:
                tasks.append(keep_running(f"questions to {self.address}", partial(self._keep_asking, silence)))
                await session.run_session()
        finally:
            await end_tasks(*tasks)
            self._lose_session(session)

    def _log_refusal(self, reason: str) -> None:
        """Log the refusal once, until the scheduler accepts this gateway or says something else."""
        if reason != self._refusal:
            logger.error("scheduler refuses this gateway, trying on", extra={"address": self.address, "reason": reason})
        self._refusal = reason

    def _lose_session(self, session: SchedulerSession) -> None:
        self._session, self.models, self.load = None, {}, None
        self._num_sent_tokens = self._num_sent_sequences = 0
        self._health = "not connected"
        self._note_failure()
        self._listener.on_lost_session(self, session.abandon_requests())

    def _note_failure(self) -> None:
        self.failed_at_s = asyncio.get_running_loop().time()

    # ---- what it says of itself

    async def _keep_asking(self, silence: asyncio.Timeout) -> None:
        """Ends the session when the scheduler leaves too much unanswered."""
        num_unanswered = 0
        while num_unanswered < MAX_UNANSWERED:
            try:
                if num_unanswered == 0:
                    await self._until_due()
                await self._ask_models_and_load()
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

    async def _ask_models_and_load(self) -> None:
        num_tokens, num_sequences = self._num_sent_tokens, self._num_sent_sequences
        models = await self.calls.list_models(self._answer_limit_s)
        self.load = await self.calls.get_load(self._answer_limit_s)
        # What was sent before is in the answer.
        self._num_sent_tokens -= num_tokens
        self._num_sent_sequences -= num_sequences
        before, self.models = self.models, {model.name: model for model in models if model.is_served}
        self.known |= self.models
        if self.models.keys() != before.keys():
            self._listener.on_change()
        # In two answers in a row, since workers come and go.
        served = before.keys() | self.models.keys()
        requests = self._session.requests if self._session else []
        if stranded := [opened for opened in requests if opened.request.model not in served]:
            self._listener.on_stranded_requests(self, stranded)

    async def _keep_watching_health(self) -> None:
        watched = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        while True:
            call = health_pb2_grpc.HealthStub(self._channel.current).Watch(watched)
            try:
                async for response in call:
                    self._set_health(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
            except grpc.aio.AioRpcError as error:
                logger.debug("health watch lost", extra={"code": error.code().name})
            finally:
                call.cancel()
            self._set_health("not connected")
            await asyncio.sleep(RECONNECT_DELAY_S)

    def _set_health(self, health: str) -> None:
        before, self._health = self._health, health
        if before == "SERVING" != health:
            self._note_failure()
        self._has_changed.set()
        self._listener.on_change()


async def _or_gateway_error(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise NotWelcomeError(error.details() or error.code().name) from None
        raise from_grpc_code(error.code().value[0], error.details() or error.code().name) from None
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        # The channel was closed, in the middle of an outage, for one with renewed certificates.
        raise unavailable("The connection to the scheduler was lost.") from None
