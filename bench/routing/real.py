"""`python -m bench routing-real` compares routing policies with real workers.

All caches together hold all prefixes, but one alone does not. Each policy gets a server of its own and the same requests:
a first pass through all prefixes, which is not measured, then the measured requests, in another order and with other
suffixes.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.client import LoadShape, OpenAIClient, run_load
from bench.report import Result, summarize, table, write_numbers
from bench.server import own_server
from bench.workloads import PlannedRequest, SharedPrefixWorkload, Vocabulary
from scheduler.routing.router import POLICIES


def routing_real(
    model: Annotated[str, typer.Option(help="Default: the default model.")] = "",
    num_workers: int = 2,
    kv_memory: Annotated[str, typer.Option(help="Memory for pages of each worker.")] = "80M",
    num_prefixes: int = 8,
    prefix_len: int = 640,
    suffix_len: int = 24,
    output_len: int = 16,
    num_requests: int = 64,
    concurrency: int = 6,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Compare routing policies with real workers."""
    # The same seed gives the same prefixes, and other suffixes when the number of requests differs.
    first, measured = (
        SharedPrefixWorkload(
            num_requests=number,
            num_prefixes=num_prefixes,
            prefix_len=prefix_len,
            suffix_len=suffix_len,
            output_len=output_len,
        ).requests(Vocabulary())
        for number in (num_prefixes, num_requests)
    )
    results = []
    for policy in POLICIES:
        environment = dict(os.environ) | {"PAGODA_SCHEDULER_ROUTING": policy}
        arguments = ("--workers", str(num_workers), "--kv-memory", kv_memory)
        with own_server(model, arguments, environment) as url:
            result = asyncio.run(_measure(url, policy, first, measured, concurrency))
        print(f"{policy}: {result.output_tokens_per_s:.1f} tok/s", file=sys.stderr)
        results.append(result)
    Console(stderr=True).print(table(results))
    write_numbers({"num_workers": num_workers, "kv_memory": kv_memory}, results, output)


async def _measure(
    url: str, policy: str, first: list[PlannedRequest], measured: list[PlannedRequest], concurrency: int
) -> Result:
    async with OpenAIClient(url) as client:
        await run_load(client, first, LoadShape(concurrency=1))
        outcomes = await run_load(client, measured, LoadShape(concurrency=concurrency))
    return summarize(policy, concurrency, None, outcomes)
