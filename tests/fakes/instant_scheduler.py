"""A scheduler process that answers immediately: each step has one random token for every open request, until max_tokens.

It is for measuring a gateway alone: it plans and computes nothing, and sends one message per step like the real one.
`python -m tests.fakes.instant_scheduler --listen ADDRESS --model NAME [--steps-per-s N]`
"""

import argparse
import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from pagoda.rpc.grpc_server import GrpcServer
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2

SERVICE_NAME = "protos.v1.InferenceService"
MAX_MODEL_LEN = 8192
# After the special tokens and within every vocabulary that is served here.
FIRST_TOKEN_ID, END_TOKEN_ID = 1000, 30000


@dataclass(slots=True, eq=False)
class _Open:
    request_id: str
    num_prompt_tokens: int
    max_tokens: int
    num_sent: int = 0


class InstantScheduler(inference_pb2_grpc.InferenceServiceServicer):
    """A scheduler that makes at most `steps_per_s` steps, or without it as many as the gateway's stream takes."""

    def __init__(self, model: str, steps_per_s: float | None = None) -> None:
        self._step_s = 0.0 if steps_per_s is None else 1 / steps_per_s
        source = random.Random(0)
        self._token_ids = [source.randrange(FIRST_TOKEN_ID, END_TOKEN_ID) for _ in range(MAX_MODEL_LEN)]
        self._model = inference_pb2.ModelInfo(
            name=model, digest="d" * 64, max_model_len=MAX_MODEL_LEN, num_workers=1, device="none"
        )

    async def ListModels(self, request: inference_pb2.ListModelsRequest, context: Any) -> Any:
        return inference_pb2.ListModelsResponse(models=[self._model])

    async def KeepLoaded(self, request: inference_pb2.KeepLoadedRequest, context: Any) -> Any:
        return inference_pb2.KeepLoadedResponse()

    async def GetLoad(self, request: inference_pb2.GetLoadRequest, context: Any) -> Any:
        return inference_pb2.GetLoadResponse()

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a gateway uses Session")
        yield inference_pb2.GenerateResponse()  # never reached; it makes this method a stream, as in the contract

    async def Session(
        self, request_iterator: AsyncIterator[inference_pb2.SessionRequest], context: Any
    ) -> AsyncIterator[inference_pb2.SessionResponse]:
        session = _Session()
        reading = asyncio.create_task(session.read(request_iterator))
        due = time.monotonic()
        try:
            while True:
                await session.some_open.wait()
                due = max(due + self._step_s, time.monotonic() - self._step_s)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                yield session.step(self._token_ids)
        finally:
            reading.cancel()


class _Session:
    def __init__(self) -> None:
        self.some_open = asyncio.Event()
        self._open: dict[str, _Open] = {}
        self._ended: list[inference_pb2.GenerateResponse] = []

    async def read(self, commands: AsyncIterator[inference_pb2.SessionRequest]) -> None:
        async for command in commands:
            match command.WhichOneof("command"):
                case "open":
                    self._begin(command.open)
                case "cancel":
                    self._end(command.cancel.request_id, types_pb2.FINISH_REASON_ABORT, None)
                case "finish":
                    self._end(command.finish.request_id, types_pb2.FINISH_REASON_STOP, command.finish.num_tokens)

    def step(self, token_ids: list[int]) -> inference_pb2.SessionResponse:
        """Return one token for every request, and finish the requests that have all theirs."""
        events, batch = [], inference_pb2.TokenBatch()
        for request in list(self._open.values()):
            if request.num_sent == 0:
                started = inference_pb2.Started(request_id=request.request_id, worker_id="none")
                events.append(inference_pb2.GenerateResponse(started=started))
            batch.request_ids.append(request.request_id)
            batch.sample_indexes.append(0)
            batch.token_ids.append(token_ids[request.num_sent % len(token_ids)])
            batch.sequence_numbers.append(request.num_sent)
            request.num_sent += 1
            if request.num_sent == request.max_tokens:
                self._end(request.request_id, types_pb2.FINISH_REASON_LENGTH, None)
        events.append(inference_pb2.GenerateResponse(token_batch=batch))
        events += self._ended
        self._ended = []
        if not self._open:
            self.some_open.clear()
        return inference_pb2.SessionResponse(events=events)

    def _begin(self, request: inference_pb2.GenerateRequest) -> None:
        assert request.num_samples <= 1, "an instant scheduler supports one sample per request"
        num_prompt_tokens = len(request.prompt_token_ids)
        self._open[request.request_id] = _Open(request.request_id, num_prompt_tokens, request.sampling.max_tokens)
        self.some_open.set()

    def _end(self, request_id: str, reason: "types_pb2.FinishReason.ValueType", num_tokens: int | None) -> None:
        request = self._open.pop(request_id, None)
        if request is None:
            return
        usage = types_pb2.Usage(
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=request.num_sent if num_tokens is None else num_tokens,
        )
        finished = inference_pb2.Finished(request_id=request_id, reason=reason, usage=usage)
        self._ended.append(inference_pb2.GenerateResponse(finished=finished))
        self.some_open.set()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="unix:/path.sock or host:port")
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps-per-s", type=float, help="most steps per second (default: no limit)")
    arguments = parser.parse_args()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = GrpcServer(arguments.listen)
    scheduler = InstantScheduler(arguments.model, arguments.steps_per_s)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(scheduler, server.server)
    await server.start([SERVICE_NAME])
    await server.set_serving(SERVICE_NAME, True)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
