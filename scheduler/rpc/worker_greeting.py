"""The first messages of a worker's stream: its Hello, and the blocks that its pages have kept. Impossible ones are refused."""

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
    """Blocks that the worker's pages have kept, in the order in which it received them."""


async def read_greeting(messages: AsyncIterator[worker_pb2.AttachRequest], timeout_s: float) -> Greeting:
    """Read the messages before the attachment, each within the timeout.

    Raises WorkerProtocolError if one is wrong, and SilentWorkerError if one does not come."""
    hello = await _read_hello(messages, timeout_s)
    held_blocks: list[tuple[PageId, BlockHash]] = []
    for _ in range(hello.num_held_blocks_messages):
        more = await _read_held_blocks(messages, timeout_s)
        _refuse_impossible(more, hello.model.num_pages)
        held_blocks += more
        if len(held_blocks) > hello.model.num_pages:
            raise WorkerProtocolError(
                f"HeldBlocks name more than the {hello.model.num_pages} pages that Hello announced"
            )
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
        raise WorkerProtocolError("received fewer HeldBlocks messages than Hello announced")
    return held_blocks_from_proto(message.held_blocks)


async def _next(messages: AsyncIterator[worker_pb2.AttachRequest], timeout_s: float) -> worker_pb2.AttachRequest:
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(messages)
    except TimeoutError:
        raise SilentWorkerError(f"the worker sent no message for {timeout_s:g} s before it was attached") from None
    except StopAsyncIteration:
        raise WorkerProtocolError("the stream ended before the worker was attached") from None


def _refuse_impossible(held_blocks: list[tuple[PageId, BlockHash]], num_pages: int) -> None:
    if any(page >= num_pages or len(block) != HASH_BYTES for page, block in held_blocks):
        raise WorkerProtocolError(
            f"HeldBlocks must name page ids below {num_pages} and block hashes of {HASH_BYTES} bytes"
        )
