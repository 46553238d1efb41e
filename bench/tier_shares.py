"""`python -m bench shares` measures each tier's share of the processor time of a busy server.

It starts the server itself, because it measures the processes. Prompts are words, so that the gateway has text to
tokenize.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.client import LoadShape, OpenAIClient, Outcome, run_load
from bench.processes import cpu_s
from bench.report import write_numbers
from bench.server import own_server
from bench.workloads import PlannedRequest, RandomWorkload, Vocabulary

TIERS = ("gateway", "scheduler", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesResult:
    concurrency: int
    duration_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    output_tokens_per_s: float
    cpu_s: Mapping[str, float]
    """Seconds of processor time of each tier."""

    def us_per_output_token(self, tier: str) -> float:
        return self.cpu_s[tier] / self.num_output_tokens * 1e6

    def share(self, tier: str) -> float:
        """Return a tier's share of the processor time of all tiers."""
        return self.cpu_s[tier] / sum(self.cpu_s.values())


def shares(
    model: Annotated[str, typer.Option(help="Default: the default model.")] = "",
    num_requests: int = 64,
    concurrency: int = 32,
    input_len: int = 128,
    output_len: int = 64,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure each tier's share of the processor time of a busy server."""
    workload = RandomWorkload(num_requests=num_requests, input_len=input_len, output_len=output_len)
    requests = workload.requests(Vocabulary(as_text=True))
    with own_server(model) as url:
        client = OpenAIClient(url, model=model)
        result = asyncio.run(measure(client, requests, concurrency))
    Console(stderr=True).print(table(result))
    write_numbers({"model": client.model, "workload": workload.name}, [result], output)


async def measure(client: OpenAIClient, requests: list[PlannedRequest], concurrency: int) -> SharesResult:
    async with client:
        await client.complete(PlannedRequest(prompt="Warm up.", max_tokens=4))
        before = cpu_by_tier()
        outcomes = await run_load(client, requests, LoadShape(concurrency=concurrency))
        after = cpu_by_tier()
    return summarize(outcomes, concurrency, {tier: after[tier] - before[tier] for tier in TIERS})


def cpu_by_tier() -> Mapping[str, float]:
    """Return the processor time so far, in seconds, of each `python -m TIER` among this process's descendants."""
    used: defaultdict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        command = process.cmdline()
        if "-m" in command[:-1]:
            used[command[command.index("-m") + 1]] += cpu_s(process)
    return used


def summarize(outcomes: list[Outcome], concurrency: int, used: Mapping[str, float]) -> SharesResult:
    if failed := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise SystemExit(f"{len(failed)} requests failed; the first error: {failed[0]}")
    duration_s = max(outcome.end_s for outcome in outcomes) - min(outcome.start_s for outcome in outcomes)
    num_output_tokens = sum(outcome.num_output_tokens for outcome in outcomes)
    return SharesResult(
        concurrency=concurrency,
        duration_s=duration_s,
        num_prompt_tokens=sum(outcome.num_prompt_tokens for outcome in outcomes),
        num_output_tokens=num_output_tokens,
        output_tokens_per_s=num_output_tokens / duration_s,
        cpu_s=used,
    )


def table(result: SharesResult) -> Table:
    title = f"{result.concurrency} at once, {result.output_tokens_per_s:.0f} tok/s: processor time"
    columns = Table(title=title, title_justify="left")
    for name in ("tier", "s", "µs per output token", "share"):
        columns.add_column(name, justify="left" if name == "tier" else "right")
    for tier in TIERS:
        per_token = f"{result.us_per_output_token(tier):.0f}"
        columns.add_row(tier, f"{result.cpu_s[tier]:.2f}", per_token, f"{result.share(tier):.1%}")
    return columns
