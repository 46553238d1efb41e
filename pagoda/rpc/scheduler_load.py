"""A request for a scheduler's load (its workers and queue) by a process that has no session with it."""

import grpc

from pagoda.wire.load import SchedulerLoad
from protos.v1 import inference_pb2, inference_pb2_grpc


async def ask_load(channel: grpc.aio.Channel, timeout_s: float) -> SchedulerLoad:
    """Return the scheduler's load. Raises grpc.aio.AioRpcError, also after `timeout_s`."""
    stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
    return SchedulerLoad.from_proto(await stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=timeout_s))
