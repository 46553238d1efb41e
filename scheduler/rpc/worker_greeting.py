"""What a worker says before it is attached: what it is, and what its pages have kept. Refuses what cannot be."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kvcache.block_hash import HASH_BYTES, BlockHash
from kvcache.page_pool import PageId
from protos.v1 import worker_pb2
from scheduler.errors import SilentWorkerError, WorkerProtocolError
from scheduler.rpc.worker_bounds import hello_problem
from scheduler.rpc.worker_messages import held_blocks_from_proto


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    hello: worker_pb2.Hello
    held_blocks: list[tuple[PageId, BlockHash]]
    """What the worker's pages have kept, in the order in which it learned it."""


async def read_greeting(messages: AsyncIterator[worker_pb2.AttachRequest], timeout_s: float) -> Greeting:
    """Read the messages before the attachment, each within the timeout.

    Raises WorkerProtocolError that says what is wrong, and SilentWorkerError when a message does not come."""
    hello = await _read_hello(messages, timeout_s)
    held_blocks: list[tuple[PageId, BlockHash]] = []
    for _ in range(hello.num_held_blocks_messages):
        more = await _read_held_blocks(messages, timeout_s)
        _refuse_impossible(more, hello.model.num_pages)
        held_blocks += more
        if len(held_blocks) > hello.model.num_pages:
            raise WorkerProtocolError("HeldBlocks name more pages than there are")
    return Greeting(hello=hello, held_blocks=held_blocks)


async def _read_hello(messages: AsyncIterator[worker_pb2.AttachRequest], timeout_s: float) -> worker_pb2.Hello:
    first = await _next(messages, timeout_s)
    if first.WhichOneof("message") != "hello":
        raise WorkerProtocolError("the first message must be a Hello with a worker_id")
    if (problem := hello_problem(first.hello)) is not None:
        raise WorkerProtocolError(problem)
    return first.hello


async def _read_held_blocks(
    messages: AsyncIterator[worker_pb2.AttachRequest], timeout_s: float
) -> list[tuple[PageId, BlockHash]]:
    message = await _next(messages, timeout_s)
    if message.WhichOneof("message") != "held_blocks":
        raise WorkerProtocolError("fewer HeldBlocks than Hello said")
    return held_blocks_from_proto(message.held_blocks)


async def _next(messages: AsyncIterator[worker_pb2.AttachRequest], timeout_s: float) -> worker_pb2.AttachRequest:
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(messages)
    except TimeoutError:
        raise SilentWorkerError(f"nothing was said for {timeout_s:g} s before the worker was attached") from None
    except StopAsyncIteration:
        raise WorkerProtocolError("the stream ended before the worker was attached") from None


def _refuse_impossible(held_blocks: list[tuple[PageId, BlockHash]], num_pages: int) -> None:
    if any(page >= num_pages or len(block) != HASH_BYTES for page, block in held_blocks):
        raise WorkerProtocolError("HeldBlocks name pages or blocks that cannot be")
