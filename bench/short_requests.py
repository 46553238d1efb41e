"""`python -m bench short-requests` measures the time to first token of short requests behind long ones.

The bound is three times the time of a short request alone, plus two steps, which may be in flight when it arrives. A step
here is the longest step of a prompt of 7,000 tokens that is alone on the worker. Processes are real and times include HTTP.
"""

import asyncio
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from bench.report import percentile, write_numbers
from bench.server import own_server
from bench.workloads import Vocabulary

STEP_TOKENS = 512
"""Default number of tokens per step of a worker."""
LATE_STEP_TOKENS = 120
"""Number of tokens in a step near the end of a prompt of 7,000 tokens."""
SHORT_TOKENS = 9
Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Long requests that are sent at once."""

    name: str
    prompts: Sequence[Sequence[int]]
    """Token counts of each request's prompts."""
    fields: Mapping[str, Any]

    def bodies(self, source: random.Random) -> list[Body]:
        return [
            {"prompt": [list(Vocabulary().draw(source, length)) for length in lengths], **self.fields}
            for lengths in self.prompts
        ]


BACKGROUNDS = (
    Background(name="nothing", prompts=(), fields={}),
    Background(name="2 prompts of 7,000", prompts=[[7_000], [7_000]], fields={"max_tokens": 64}),
    Background(name="12 prompts of 7,000", prompts=[[7_000]] * 12, fields={"max_tokens": 64}),
    Background(name="n=8, 1,500, scored", prompts=[[1_500]], fields={"n": 8, "prompt_logprobs": 20, "max_tokens": 400}),
    Background(name="n=128, 1,500", prompts=[[1_500]], fields={"n": 128, "max_tokens": 400}),
    Background(name="64 prompts of 300 in one call", prompts=[[300] * 64], fields={"max_tokens": 400}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortResult:
    background: str
    ttft_ms: list[float]
    """Times to first token of the short requests, which are sent one after the other."""
    bound_ms: float


def short_requests(
    model: Annotated[str, typer.Option(help="Default: the default model.")] = "",
    num_asked: Annotated[int, typer.Option(help="Short requests behind each background.")] = 8,
    only: Annotated[str, typer.Option(help="Measure only backgrounds whose name contains this text.")] = "",
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure the time to first token of short requests behind long ones."""
    with own_server(model) as url:
        results, step_s = asyncio.run(_measure_all(url, num_asked, only))
    Console(stderr=True).print(table(results))
    write_numbers({"step_tokens": STEP_TOKENS, "step_ms": step_s * 1e3}, results, output)


async def _measure_all(url: str, num_asked: int, only: str) -> tuple[list[ShortResult], float]:
    source = random.Random(0)
    async with httpx.AsyncClient(base_url=f"{url}/", timeout=600, trust_env=False) as http:
        await _ttft_s(http, _short(source))
        alone_s = sorted([await _ttft_s(http, _short(source)) for _ in range(5)])[2]
        step_s = await _longest_step_s(http, source)
        bound_s = 3 * alone_s + 2 * step_s
        print(f"alone {alone_s * 1e3:.0f} ms, a step {step_s * 1e3:.0f} ms", file=sys.stderr, flush=True)
        results = []
        for background in BACKGROUNDS:
            if only in background.name:
                ttft_s = await _measure(http, background, num_asked, source, step_s)
                ttft_ms = [seconds * 1e3 for seconds in ttft_s]
                print(
                    f"{background.name}: {', '.join(f'{each:.0f}' for each in ttft_ms)} ms", file=sys.stderr, flush=True
                )
                results.append(ShortResult(background=background.name, ttft_ms=ttft_ms, bound_ms=bound_s * 1e3))
    return results, step_s


async def _longest_step_s(http: httpx.AsyncClient, source: random.Random) -> float:
    """Return the longer of two steps of a prompt of 7,000 tokens: the first, and a late one with fewer tokens and more context."""
    prompt = Vocabulary().draw(source, 7_000)
    first_s = await _ttft_s(http, {"prompt": prompt[:STEP_TOKENS], "max_tokens": 1})
    # Caches the pages of the tokens before the late step.
    await _ttft_s(http, {"prompt": prompt[:-LATE_STEP_TOKENS], "max_tokens": 1})
    return max(first_s, await _ttft_s(http, {"prompt": prompt, "max_tokens": 1}))


async def _measure(
    http: httpx.AsyncClient, background: Background, num_asked: int, source: random.Random, step_s: float
) -> list[float]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_complete(http, body)) for body in background.bodies(source)]
        ttft_s = []
        for _ in range(num_asked):
            await asyncio.sleep(step_s * source.uniform(0.5, 1.5))
            if tasks and all(task.done() for task in tasks):
                break
            ttft_s.append(await _ttft_s(http, _short(source)))
        for task in tasks:
            task.cancel()
    return ttft_s


def _short(source: random.Random) -> Body:
    return {"prompt": Vocabulary().draw(source, SHORT_TOKENS), "max_tokens": 4}


async def _complete(http: httpx.AsyncClient, body: Body) -> None:
    # Not streamed, because streams carry no log-probabilities of prompts.
    await http.post("completions", json=_request(body))


async def _ttft_s(http: httpx.AsyncClient, body: Body) -> float:
    started_s, first_s = time.perf_counter(), 0.0
    async with http.stream("POST", "completions", json=_request(body) | {"stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data:") and not first_s:
                first_s = time.perf_counter() - started_s
    return first_s


def _request(body: Body) -> Body:
    return {"temperature": 0, "ignore_eos": True, **body}


def table(results: Sequence[ShortResult]) -> Table:
    columns = Table(title=f"Time to first token of a request of {SHORT_TOKENS} tokens, in ms", title_justify="left")
    for name in ("behind", "p50", "longest", "bound"):
        columns.add_column(name, justify="left" if name == "behind" else "right")
    for result in results:
        ordered = sorted(result.ttft_ms)
        columns.add_row(
            result.background,
            f"{percentile(ordered, 50):.0f}",
            f"{percentile(ordered, 100):.0f}",
            f"{result.bound_ms:.0f}",
        )
    return columns
