"""The gateway's client of one scheduler: its connection, its health, and its last reported models and load.

Only a scheduler that answers gets a session, which is reopened whenever it breaks. While the session is open, the client polls
the scheduler's models and load; a scheduler that does not answer is treated as lost, like one whose stream breaks.
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
# Two in a row: a single poll may time out because this process paused, not the scheduler.
MAX_UNANSWERED = 2
RECONNECT_DELAY_S = 0.2
# Enough for a model of many gigabytes on a slow disk.
LOAD_TIMEOUT_S = 600.0

T = TypeVar("T")


class NotWelcomeError(GatewayError):
    """The error for a scheduler that refuses the gateway itself, not one of its clients; only an operator can solve it."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorKind.UNAVAILABLE, "The scheduler refuses this gateway.", retry_after_s=1.0)
        self.reason = reason


class SchedulerCalls:
    """The unary calls to a scheduler. Requests for text use the session's stream instead.

    Each call raises GatewayError if the answer is an error or does not arrive in time.
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
        """Set the model's keep-alive and return once the model is loaded; if it is 0, once the scheduler confirms it."""
        request = inference_pb2.KeepLoadedRequest(
            model=model, keep_alive_s=keep_alive_s, keep_alive_only_prolongs=not may_unload
        )
        await _or_gateway_error(self._stub.KeepLoaded(request, timeout=LOAD_TIMEOUT_S))


class SchedulerListener(Protocol):
    """The interface to which a SchedulerClient reports requests that its scheduler does not serve to their end."""

    def on_refused_request(self, client: "SchedulerClient", opened: OpenRequest, error: GatewayError) -> None: ...

    def on_lost_session(self, client: "SchedulerClient", requests: list[OpenRequest]) -> None:
        """Handle the loss of the session, which had these requests."""

    def on_stranded_requests(self, client: "SchedulerClient", requests: list[OpenRequest]) -> None:
        """Handle requests that are still in the session, but have had no worker for some time."""

    def on_change(self) -> None:
        """Handle a change after which the scheduler may accept requests that it would have refused before."""


class SchedulerClient:
    """The client of one scheduler. It may be created outside the event loop, and is started inside it."""

    def __init__(self, address: str, *, silence_s: float, security: TransportSecurity = LOCAL_ONLY) -> None:
        """Create the client. A scheduler that does not answer for about `silence_s` is treated as lost."""
        self.address = address
        self.models: dict[str, ModelInfo] = {}
        """Models that the scheduler has workers for, by name, as last reported; empty while it is lost."""
        self.known: dict[str, ModelInfo] = {}
        """Models by name as last reported, including those from before the scheduler was lost."""
        self.load: SchedulerLoad | None = None
        self.failed_at_s = float("-inf")
        """Time, by the event loop's clock, at which the scheduler was last lost, began to drain, or lost its last worker."""
        self._security = security
        self._answer_limit_s = silence_s / MAX_UNANSWERED
        self._session: SchedulerSession | None = None
        self._num_sent_tokens = self._num_sent_sequences = 0
        """Number of uncached tokens and of samples sent since the last reported load."""
        self._health = "not connected"
        self._refusal = ""
        """Reason why the scheduler refuses this gateway; empty if it accepts it."""
        self._has_changed = asyncio.Event()
        """Event set when the health changes: workers have joined or left, so the last reported models are out of date."""

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
        """The reason why the scheduler accepts no request now; None if it does."""
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
        """The number of tokens to compute: the last reported ones, and those sent since."""
        return self._num_sent_tokens + (self.load.num_pending_tokens if self.load else 0)

    @property
    def num_sequences(self) -> int:
        """The number of sequences that wait or run: the last reported ones, and those sent since."""
        return self._num_sent_sequences + (self.load.num_waiting + self.load.num_running if self.load else 0)

    def send_request(self, opened: OpenRequest, num_uncached_tokens: int) -> None:
        """Send the request through the open session. `num_uncached_tokens` of its prompt must be computed."""
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
                logger.warning("scheduler silent; session closed", extra={"address": self.address})
            except grpc.aio.AioRpcError as error:
                fields = {"address": self.address, "code": error.code().name, "details": error.details()}
                logger.warning("scheduler session lost", extra=fields)
            except Exception:
                logger.exception("scheduler session failed")
            await asyncio.sleep(RECONNECT_DELAY_S)

    async def _run_session(self) -> None:
        """Run the session until it breaks. Raises TimeoutError if the scheduler stops answering."""
        session = self._session = SchedulerSession(
            self._channel.current,
            on_refusal=lambda opened, error: self._listener.on_refused_request(self, opened, error),
            # The health stream reports it too, but perhaps later.
            on_shutting_down=lambda: self._set_health("shutting down"),
        )
        self._refusal = ""
        logger.info("scheduler session open", extra={"address": self.address})
        self._listener.on_change()
        tasks = [keep_running(f"health watch of {self.address}", self._keep_watching_health)]
        try:
            async with asyncio.timeout(None) as silence:
                tasks.append(keep_running(f"polling of {self.address}", partial(self._keep_asking, silence)))
                await session.run_session()
        finally:
            await end_tasks(*tasks)
            self._lose_session(session)

    def _log_refusal(self, reason: str) -> None:
        """Log the refusal once, until the scheduler accepts this gateway or gives another reason."""
        if reason != self._refusal:
            logger.error("scheduler refuses this gateway; retrying", extra={"address": self.address, "reason": reason})
        self._refusal = reason

    def _lose_session(self, session: SchedulerSession) -> None:
        self._session, self.models, self.load = None, {}, None
        self._num_sent_tokens = self._num_sent_sequences = 0
        self._health = "not connected"
        self._note_failure()
        self._listener.on_lost_session(self, session.abandon_requests())

    def _note_failure(self) -> None:
        self.failed_at_s = asyncio.get_running_loop().time()

    # ---- polling

    async def _keep_asking(self, silence: asyncio.Timeout) -> None:
        """Poll the scheduler, and end the session after MAX_UNANSWERED polls in a row without an answer."""
        num_unanswered = 0
        while num_unanswered < MAX_UNANSWERED:
            try:
                if num_unanswered == 0:
                    await self._until_due()
                await self._ask_models_and_load()
                num_unanswered = 0
            except GatewayError as error:
                # Any other error is an answer too, or breaks the session as well.
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
        # The reported load includes what was sent before the poll.
        self._num_sent_tokens -= num_tokens
        self._num_sent_sequences -= num_sequences
        before, self.models = self.models, {model.name: model for model in models if model.is_served}
        self.known |= self.models
        if self.models.keys() != before.keys():
            self._listener.on_change()
        # Requests are moved only if their model is missing from two answers in a row, because a worker may be back in a moment.
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
        # During an outage, the channel was replaced by one with renewed certificates.
        raise unavailable("The connection to the scheduler was lost.") from None
