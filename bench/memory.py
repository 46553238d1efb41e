"""`python -m bench memory` measures a worker's peak memory, and how much of it is neither weights nor pages.

It starts a server with few pages and requests more tokens than fit into them: many sequences at once, then long prompts.
The peak is the Linux kernel's own count (VmHWM), loading included.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from bench.client import LoadShape, OpenAIClient, Outcome, run_load
from bench.processes import peak_bytes, tier_process
from bench.report import write_numbers
from bench.server import own_server
from bench.workloads import RandomWorkload, Vocabulary
from pagoda.cli.options import resolve_home
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.rpc.grpc_channel import open_channel
from pagoda.rpc.sockets import scheduler_address
from protos.v1 import inference_pb2, inference_pb2_grpc

MANY_AT_ONCE, LONG_PROMPT, LONG_AT_ONCE = 64, 1500, 4
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResult:
    model: str
    weights_bytes: int
    kv_bytes: int
    pages_in_use: float
    """Share of pages that hold a block at the end. All were written by then, because unused pages are allocated first."""
    peak_bytes: int
    beside_bytes: int
    """The peak less weights and pages."""


def memory(
    models: Annotated[list[str] | None, typer.Argument(help="Models to measure. Default: the default model.")] = None,
    kv_memory: Annotated[str, typer.Option(help="Memory for pages, as in pagoda serve.")] = "128MiB",
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure the worker's peak memory."""
    results = [measure(model, kv_memory) for model in models or [DEFAULT_MODEL]]
    Console(stderr=True).print(table(results))
    write_numbers({}, results, output)


def measure(model: str, kv_memory: str) -> MemoryResult:
    with own_server(model, ("--kv-memory", kv_memory)) as url:
        worker = asyncio.run(fill_pages(url))
        peak = peak_bytes(tier_process("worker"))
    num_pages = worker.num_pages_free + worker.num_pages_cached + worker.num_pages_used
    return MemoryResult(
        model=model,
        weights_bytes=worker.weights_bytes,
        kv_bytes=worker.kv_bytes,
        pages_in_use=1 - worker.num_pages_free / num_pages,
        peak_bytes=peak,
        beside_bytes=peak - worker.weights_bytes - worker.kv_bytes,
    )


async def fill_pages(url: str) -> inference_pb2.WorkerLoad:
    """Request enough tokens to fill all pages, and return the worker's load afterwards."""
    address = scheduler_address(resolve_home(None), str(urlsplit(url).port))
    async with OpenAIClient(url) as client, open_channel(address) as channel:
        stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
        (before,) = (await stub.GetLoad(inference_pb2.GetLoadRequest())).workers
        num_tokens = before.num_pages_free * before.page_size
        short = RandomWorkload(num_requests=2 * MANY_AT_ONCE, input_len=32, output_len=32, seed=1)
        long = RandomWorkload(num_requests=2 + num_tokens // LONG_PROMPT, input_len=LONG_PROMPT, output_len=2, seed=2)
        for workload, concurrency in ((short, MANY_AT_ONCE), (long, LONG_AT_ONCE)):
            raise_on_failure(
                await run_load(client, workload.requests(Vocabulary()), LoadShape(concurrency=concurrency))
            )
        (after,) = (await stub.GetLoad(inference_pb2.GetLoadRequest())).workers
        return after


def raise_on_failure(outcomes: list[Outcome]) -> None:
    if failed := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise SystemExit(f"{len(failed)} requests failed; the first error: {failed[0]}")


def table(results: list[MemoryResult]) -> Table:
    columns = Table(title="The worker's memory, MB", title_justify="left")
    for name in ("model", "weights", "pages", "in use", "peak", "beside weights and pages"):
        columns.add_column(name, justify="left" if name == "model" else "right")
    for result in results:
        sizes = (result.weights_bytes, result.kv_bytes, result.peak_bytes, result.beside_bytes)
        weights, pages, peak, beside = (f"{size / MB:.0f}" for size in sizes)
        columns.add_row(result.model, weights, pages, f"{result.pages_in_use:.0%}", peak, beside)
    return columns
