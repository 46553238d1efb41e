"""Statistics of outcomes, as a table for people and as JSON for comparison.

TTFT is the time from sending to the first chunk, ITL each gap between chunks, TPOT a request's mean time per token after
the first, and E2E its whole time.
"""

import itertools
import json
import math
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.client import Outcome

LINE_WIDTH = 120
"""Maximum length of a line of prose in a page of results, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Mean and percentiles of durations, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    workload: str
    concurrency: int
    request_rate: float | None
    num_requests: int
    num_errors: int
    first_error: str | None
    duration_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    cached_share: float
    """Share of the prompt tokens that the server reports as cached."""
    num_output_tokens: int
    ttft_ms: Distribution
    itl_ms: Distribution
    tpot_ms: Distribution
    e2e_ms: Distribution


def summarize(workload: str, concurrency: int, request_rate: float | None, outcomes: Sequence[Outcome]) -> Result:
    """Return the statistics of a run. Failed requests only count as errors."""
    done = [outcome for outcome in outcomes if outcome.error is None and outcome.chunk_times_s]
    errors = [outcome.error or "no text arrived" for outcome in outcomes if outcome not in done]
    duration_s = max(o.end_s for o in outcomes) - min(o.start_s for o in outcomes)
    num_prompt = sum(outcome.num_prompt_tokens for outcome in done)
    num_output = sum(outcome.num_output_tokens for outcome in done)
    return Result(
        workload=workload,
        concurrency=concurrency,
        request_rate=request_rate,
        num_requests=len(outcomes),
        num_errors=len(errors),
        first_error=errors[0] if errors else None,
        duration_s=duration_s,
        output_tokens_per_s=num_output / duration_s,
        total_tokens_per_s=(num_prompt + num_output) / duration_s,
        cached_share=sum(outcome.num_cached_tokens for outcome in done) / num_prompt if num_prompt else 0.0,
        num_output_tokens=num_output,
        ttft_ms=distribution([outcome.chunk_times_s[0] - outcome.start_s for outcome in done]),
        itl_ms=distribution([gap for outcome in done for gap in _gaps(outcome)]),
        tpot_ms=distribution([_time_per_token(outcome) for outcome in done if outcome.num_output_tokens > 1]),
        e2e_ms=distribution([outcome.end_s - outcome.start_s for outcome in done]),
    )


def distribution(durations_s: Sequence[float]) -> Distribution:
    """Return the distribution of durations, in milliseconds; NaN if there are none."""
    ordered = sorted(duration * 1000 for duration in durations_s)
    mean = sum(ordered) / len(ordered) if ordered else math.nan
    return Distribution(
        mean=mean, p50=percentile(ordered, 50), p90=percentile(ordered, 90), p99=percentile(ordered, 99)
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated linearly between the two nearest ranks (numpy's default)."""
    if not ordered:
        return math.nan
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def _gaps(outcome: Outcome) -> list[float]:
    times = outcome.chunk_times_s
    return [after - before for before, after in itertools.pairwise(times)]


def _time_per_token(outcome: Outcome) -> float:
    return (outcome.chunk_times_s[-1] - outcome.chunk_times_s[0]) / (outcome.num_output_tokens - 1)


def table(results: Sequence[Result]) -> Table:
    """Return a table with one column per run."""
    columns = Table(title="Times in ms: mean / p50 / p90 / p99", title_justify="left")
    columns.add_column("")
    for result in results:
        columns.add_column(f"{result.workload}\n{_load(result)}", justify="right")
    rows = {
        "output tok/s": [f"{result.output_tokens_per_s:.1f}" for result in results],
        "total tok/s": [f"{result.total_tokens_per_s:.1f}" for result in results],
        "TTFT": [_durations(result.ttft_ms) for result in results],
        "ITL": [_durations(result.itl_ms) for result in results],
        "TPOT": [_durations(result.tpot_ms) for result in results],
        "E2E": [_durations(result.e2e_ms) for result in results],
        "cached share": [f"{result.cached_share:.1%}" for result in results],
        "requests": [str(result.num_requests) for result in results],
        "errors": [str(result.num_errors) for result in results],
    }
    for name, cells in rows.items():
        columns.add_row(name, *cells)
    return columns


def _load(result: Result) -> str:
    rate = f", {result.request_rate:g}/s" if result.request_rate is not None else ""
    return f"{result.concurrency} at once{rate}"


def _durations(durations: Distribution) -> str:
    return " / ".join(f"{value:.0f}" for value in asdict(durations).values())


def write_numbers(about: Mapping[str, Any], results: Sequence[Any], output: Path | None) -> None:
    """Write results, which are dataclasses, as JSON, with the machine and the command that produced them."""
    numbers = {
        "machine": machine(),
        **about,
        "command": command_line(),
        "results": [asdict(result) for result in results],
    }
    text = json.dumps(numbers, indent=2)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n")


def wrap_prose(text: str) -> str:
    """Break a paragraph of a page of results into lines."""
    return textwrap.fill(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)


def command_line() -> str:
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


def machine() -> dict[str, str | int | None]:
    """Describe the machine that the numbers were measured on."""
    return {
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
