"""What a scheduler is asked in one message and answers in one: what it serves, how much it has to do, to keep a model loaded.

Knows nothing about requests for text, which have the session stream (scheduler_session.py).
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc

from gateway.errors import ErrorKind, GatewayError, from_grpc_code, unavailable
from gateway.upstream.inference import Load, ModelInfo
from gateway.upstream.wire import load_from_proto, model_from_proto
from pagoda.rpc.grpc_channel import LastingChannel
from protos.v1 import inference_pb2, inference_pb2_grpc

# A model of many gigabytes from a slow disk.
LOAD_TIMEOUT_S = 600.0

T = TypeVar("T")


class NotWelcomeError(GatewayError):
    """The scheduler refuses this gateway itself, not one of its clients: whoever runs them has to see to it."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorKind.UNAVAILABLE, "The scheduler refuses this gateway.", retry_after_s=1.0)
        self.reason = reason


class SchedulerCalls:
    """Each raises GatewayError where the answer is an error, or does not come in time."""

    def __init__(self, channel: LastingChannel) -> None:
        self._channel = channel

    @property
    def _stub(self) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        return inference_pb2_grpc.InferenceServiceStub(self._channel.current)

    async def list_models(self, timeout_s: float) -> tuple[ModelInfo, ...]:
        call = self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=timeout_s)
        return tuple(map(model_from_proto, (await _or_gateway_error(call)).models))

    async def get_load(self, timeout_s: float) -> Load:
        call = self._stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=timeout_s)
        return load_from_proto(await _or_gateway_error(call))

    async def keep_loaded(self, model: str, keep_alive_s: float | None, *, may_unload: bool) -> None:
        """Returns when the model is in memory; with no time to stay at all, once that is known."""
        request = inference_pb2.KeepLoadedRequest(
            model=model, keep_alive_s=keep_alive_s, keep_alive_only_prolongs=not may_unload
        )
        await _or_gateway_error(self._stub.KeepLoaded(request, timeout=LOAD_TIMEOUT_S))


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
