"""`python -m bench server` measures an OpenAI-compatible server under one workload or the standard set."""

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.client import LoadShape, OpenAIClient, run_load
from bench.report import Result, summarize, table, write_numbers
from bench.server import own_server
from bench.workloads import PlannedRequest, RandomWorkload, SharedPrefixWorkload, Vocabulary, Workload


class WorkloadName(StrEnum):
    STANDARD = "standard"
    RANDOM = "random"
    SHARED_PREFIX = "shared-prefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    workload: Workload
    shape: LoadShape


def standard_runs(seed: int) -> list[Run]:
    """Return the standard set: 1, 8 and 32 requests at once, and shared prefixes. No run repeats a prompt of another run."""
    runs = [
        Run(
            workload=RandomWorkload(num_requests=num_requests, input_len=128, output_len=64, seed=seed + concurrency),
            shape=LoadShape(concurrency=concurrency),
        )
        for concurrency, num_requests in ((1, 4), (8, 16), (32, 64))
    ]
    shared = SharedPrefixWorkload(
        num_requests=32, num_prefixes=4, prefix_len=512, suffix_len=64, output_len=32, seed=seed
    )
    return [*runs, Run(workload=shared, shape=LoadShape(concurrency=8))]


async def measure(client: OpenAIClient, runs: list[Run], vocabulary: Vocabulary) -> list[Result]:
    results = []
    async with client:
        await client.complete(PlannedRequest(prompt=vocabulary.prompt([vocabulary.low] * 8), max_tokens=4))  # Warm up.
        for run in runs:
            outcomes = await run_load(client, run.workload.requests(vocabulary), run.shape)
            result = summarize(run.workload.name, run.shape.concurrency, run.shape.request_rate, outcomes)
            print(
                f"{result.workload}, {result.concurrency} at once: {result.output_tokens_per_s:.1f} tok/s",
                file=sys.stderr,
            )
            results.append(result)
    return results


def server(
    url: Annotated[str, typer.Option(help="Base URL, such as http://127.0.0.1:8000/v1. Default: start a server.")] = "",
    model: Annotated[str, typer.Option(help="Default: the first model that the server lists.")] = "",
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY")] = None,
    workload: WorkloadName = WorkloadName.STANDARD,
    num_requests: int = 32,
    concurrency: int = 8,
    request_rate: Annotated[
        float | None, typer.Option(help="Requests per second, as a Poisson process. Default: back to back.")
    ] = None,
    input_len: Annotated[int, typer.Option(help="Tokens of each random prompt.")] = 128,
    output_len: int = 64,
    num_prefixes: int = 4,
    prefix_len: int = 512,
    suffix_len: int = 64,
    seed: int = 0,
    text: Annotated[bool, typer.Option(help="Send words, for servers that take no token ids.")] = False,
    max_token_id: Annotated[int, typer.Option(help="Prompts have token ids from 1000 to below this one.")] = 30000,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure TTFT, ITL, TPOT, E2E and throughput of an OpenAI-compatible server."""
    shape = LoadShape(concurrency=concurrency, request_rate=request_rate, seed=seed)
    random_load = RandomWorkload(num_requests=num_requests, input_len=input_len, output_len=output_len, seed=seed)
    shared = SharedPrefixWorkload(
        num_requests=num_requests,
        num_prefixes=num_prefixes,
        prefix_len=prefix_len,
        suffix_len=suffix_len,
        output_len=output_len,
        seed=seed,
    )
    runs = {
        WorkloadName.STANDARD: standard_runs(seed),
        WorkloadName.RANDOM: [Run(workload=random_load, shape=shape)],
        WorkloadName.SHARED_PREFIX: [Run(workload=shared, shape=shape)],
    }[workload]
    with contextlib.ExitStack() as stack:
        base_url = url or stack.enter_context(own_server(model))
        client = OpenAIClient(base_url, model=model, api_key=api_key)
        results = asyncio.run(measure(client, runs, Vocabulary(high=max_token_id, as_text=text)))
    Console(stderr=True).print(table(results))
    write_numbers({"model": client.model, "url": client.base_url}, results, output)
