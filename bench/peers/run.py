"""The run of a comparison: one server after the other, each alone on the machine, with the same requests.

A failure becomes part of the result, and the run continues.
"""

import asyncio
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import httpx
import psutil

from bench.client import LoadShape, OpenAIClient, run_load
from bench.peers.comparison import Measurement, Standing
from bench.peers.contestant import Contestant
from bench.peers.errors import PeerError
from bench.peers.roofline import Ceilings, ModelSize, best_tokens_per_s
from bench.peers.rows import Row
from bench.peers.serving import Launch, ServerProcess
from bench.processes import free_port
from bench.quality.llama_cpp import LlamaCppError
from bench.report import Result, summarize
from bench.workloads import Vocabulary, Workload

QUIET_CHECK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The rows, model and limits that are the same for all servers of a run."""

    rows: Sequence[Row]
    logs: Path
    model: ModelSize
    ceilings: Ceilings


def measure(contestant: Contestant, course: Course, round_number: int) -> Iterator[Measurement]:
    """Yield one measurement per row. Consecutive rows with equal launches share one server process."""
    for launch, group in groupby(course.rows, contestant.launch):
        left = list(group)
        try:
            with running(launch, contestant, course) as base_url:
                while left:
                    yield _measurement(contestant, left[0], round_number, base_url, course)
                    left.pop(0)
        except (PeerError, httpx.HTTPError) as error:
            say(f"{contestant.name}: {error}")
            for row in left:
                yield Measurement(row=row.name, server=contestant.name, round_number=round_number, failure=str(error))


def _measurement(contestant: Contestant, row: Row, round_number: int, base_url: str, course: Course) -> Measurement:
    asyncio.run(_send(base_url, row.warm_up(round_number), row))
    used_by_others = psutil.cpu_percent(interval=QUIET_CHECK_S) / 100
    result = asyncio.run(_send(base_url, row.in_round(round_number), row))
    best = best_tokens_per_s(row, course.model, contestant.bytes_per_weight, course.ceilings)
    say(f"{contestant.name}: {row.name}: {result.output_tokens_per_s:.1f} tok/s")
    return Measurement(
        row=row.name,
        server=contestant.name,
        round_number=round_number,
        result=result,
        of_roofline=result.output_tokens_per_s / best,
        used_by_others=used_by_others,
    )


def score(contestant: Contestant, course: Course) -> Standing:
    """Return the server's perplexity and command, with the launch of the first row. Quality does not depend on the load."""
    launch = contestant.launch(course.rows[0])
    perplexity, failure = None, None
    try:
        with running(launch, contestant, course) as base_url:
            perplexity = contestant.perplexity(base_url)
    except (PeerError, LlamaCppError, httpx.HTTPError, KeyError, TypeError, ValueError) as error:
        failure = f"{type(error).__name__}: {error}"
    say(f"{contestant.name}: perplexity {perplexity if failure is None else failure}")
    return Standing(
        server=contestant.name,
        bytes_per_weight=contestant.bytes_per_weight,
        command=shown(launch),
        perplexity=perplexity if perplexity is None or math.isfinite(perplexity) else None,
        failure=failure,
    )


def shown(launch: Launch) -> str:
    """Return the command as a user would type it. Files are shown without their directories."""
    words = [*(f"{name}={_name(value)}" for name, value in launch.environment.items()), *map(_name, launch.command)]
    return shlex.join(words)


def _name(word: str) -> str:
    return Path(word).name if word.startswith("/") else word


@contextmanager
def running(launch: Launch, contestant: Contestant, course: Course) -> Iterator[str]:
    """Run the server while the block runs and yield its base URL."""
    server = ServerProcess(launch, free_port(), course.logs / f"{contestant.name}.log")
    try:
        yield server.base_url
    finally:
        server.stop()


async def _send(base_url: str, workload: Workload, row: Row) -> Result:
    async with OpenAIClient(base_url) as client:
        outcomes = await run_load(client, workload.requests(Vocabulary()), LoadShape(concurrency=row.concurrency))
    return summarize(row.name, row.concurrency, None, outcomes)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
