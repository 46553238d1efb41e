"""What a scheduler says of its workers and its queue, for those who have no session with it."""

import grpc

from pagoda.wire.load import SchedulerLoad
from protos.v1 import inference_pb2, inference_pb2_grpc


async def ask_load(channel: grpc.aio.Channel, timeout_s: float) -> SchedulerLoad:
    """Raises grpc.aio.AioRpcError, also where no answer has come in time."""
    stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
    return SchedulerLoad.from_proto(await stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=timeout_s))
