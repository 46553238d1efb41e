"""`python -m bench sampling` compares the time per output token of recommended sampling with that of neutral sampling.

One server answers both kinds of load in turn, round by round, so that a change of the machine's speed affects both.
"""

import asyncio
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.client import LoadShape, OpenAIClient, run_load
from bench.report import summarize, write_numbers
from bench.server import own_server
from bench.workloads import NEUTRAL, RandomWorkload, Vocabulary

# The catalogue's values, under their names in OpenAI's API.
RECOMMENDED: Mapping[str, float] = {
    **NEUTRAL,
    "temperature": 0.2,
    "top_p": 0.9,
    "repetition_penalty": 1.05,
    "frequency_penalty": 0.2,
}
CONCURRENCIES = (1, 32)
INPUT_LEN, OUTPUT_LEN = 128, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingResult:
    """Mean milliseconds per output token after the first, one value per round."""

    concurrency: int
    neutral_tpot_ms: tuple[float, ...]
    recommended_tpot_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        pairs = zip(self.recommended_tpot_ms, self.neutral_tpot_ms, strict=True)
        return statistics.median(recommended / neutral for recommended, neutral in pairs)


def sampling(
    url: Annotated[str, typer.Option(help="Base URL of a running server. Default: start one.")] = "",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Compare the time per token of recommended sampling with that of neutral sampling."""
    if url:
        results = asyncio.run(measure(url, rounds))
    else:
        with own_server("") as own_url:
            results = asyncio.run(measure(own_url, rounds))
    Console(stderr=True).print(table(results))
    write_numbers({"neutral": NEUTRAL, "recommended": RECOMMENDED}, results, output)


async def measure(url: str, rounds: int) -> list[SamplingResult]:
    await tpot_ms(url, NEUTRAL, 1, seed=0)  # Warm up.
    return [await compare(url, concurrency, rounds) for concurrency in CONCURRENCIES]


async def compare(url: str, concurrency: int, rounds: int) -> SamplingResult:
    neutral, recommended = [], []
    for number in range(rounds):
        seed = 1000 * concurrency + 2 * number
        neutral.append(await tpot_ms(url, NEUTRAL, concurrency, seed))
        recommended.append(await tpot_ms(url, RECOMMENDED, concurrency, seed + 1))
    return SamplingResult(
        concurrency=concurrency, neutral_tpot_ms=tuple(neutral), recommended_tpot_ms=tuple(recommended)
    )


async def tpot_ms(url: str, parameters: Mapping[str, float], concurrency: int, seed: int) -> float:
    """Send `concurrency` requests at once and return their mean time per token. Raises SystemExit if one fails."""
    workload = RandomWorkload(num_requests=concurrency, input_len=INPUT_LEN, output_len=OUTPUT_LEN, seed=seed)
    async with OpenAIClient(url, sampling={**parameters, "seed": seed}) as client:
        outcomes = await run_load(client, workload.requests(Vocabulary()), LoadShape(concurrency=concurrency))
    result = summarize(workload.name, concurrency, None, outcomes)
    if result.num_errors:
        raise SystemExit(f"{result.num_errors} requests failed; the first error: {result.first_error}")
    return result.tpot_ms.mean


def table(results: list[SamplingResult]) -> Table:
    columns = Table(title="Milliseconds per output token", title_justify="left")
    for name in ("at once", "neutral (median)", "recommended (median)", "ratio"):
        columns.add_column(name, justify="right")
    for result in results:
        medians = (statistics.median(result.neutral_tpot_ms), statistics.median(result.recommended_tpot_ms))
        columns.add_row(str(result.concurrency), *(f"{median:.2f}" for median in medians), f"{result.ratio:.3f}")
    return columns
