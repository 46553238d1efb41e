"""A client of the scheduler's `Session` that counts tokens: many requests at once, each to its last token."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator

from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2

VOCABULARY = range(1, 40_000)


class SessionClient:
    def __init__(self, address: str, *, num_workers: int) -> None:
        self._address = address
        self._num_workers = num_workers

    async def run(self, num_requests: int, prompt_len: int, output_len: int, num_bursts: int = 1) -> float:
        """Send the bursts one after the other and return the seconds they took. Raises SystemExit if a token is missing."""
        async with open_channel(self._address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            await self._wait_for_workers(stub)
            started = time.perf_counter()
            for seed in range(num_bursts):
                await _one_burst(stub, _requests(seed, num_requests, prompt_len, output_len), output_len)
            return time.perf_counter() - started

    async def _wait_for_workers(self, stub: "inference_pb2_grpc.InferenceServiceAsyncStub") -> None:
        while True:
            load = await stub.GetLoad(inference_pb2.GetLoadRequest(), wait_for_ready=True)
            if len(load.workers) == self._num_workers:
                return
            await asyncio.sleep(0.05)


async def _one_burst(
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub", requests: list[inference_pb2.SessionRequest], output_len: int
) -> None:
    everything_came = asyncio.Event()

    async def commands() -> AsyncIterator[inference_pb2.SessionRequest]:
        for request in requests:
            yield request
        # Ending this side of the stream would cancel open requests.
        await everything_came.wait()

    num_finished = num_tokens = 0
    async for response in stub.Session(commands()):
        if response.errors:
            raise SystemExit(f"The scheduler refused a request: {response.errors[0].message}")
        for event in response.events:
            num_tokens += len(event.tokens.token_ids) + len(event.token_batch.token_ids)
            num_finished += event.HasField("finished")
        if num_finished == len(requests):
            everything_came.set()
    if num_tokens != len(requests) * output_len:
        raise SystemExit(f"Only {num_tokens} of {len(requests) * output_len} tokens arrived.")


def _requests(seed: int, num_requests: int, prompt_len: int, output_len: int) -> list[inference_pb2.SessionRequest]:
    source = random.Random(seed)
    sampling = types_pb2.SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True)
    return [
        inference_pb2.SessionRequest(
            open=inference_pb2.GenerateRequest(
                request_id=uuid.UUID(int=source.getrandbits(128)).hex,
                prompt_token_ids=source.choices(VOCABULARY, k=prompt_len),
                sampling=sampling,
            )
        )
        for _ in range(num_requests)
    ]
