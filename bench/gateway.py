"""`python -m bench gateway` measures the cost of a token in the gateway. A fake scheduler answers immediately.

Processor time per token is meaningful even on a shared machine: 200 µs mean 5,000 tokens per second on one core. Rounds
are interleaved; each row shows its cheapest round, which was disturbed least.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.gateway_plans import prompt_plan, streaming_plans
from bench.processes import cpu_s, free_port, python_module, wait_until_ready
from bench.raw_client import Counts, Plan
from bench.report import write_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayResult:
    name: str
    concurrency: int
    steps_per_s: float | None
    """Step rate of the fake scheduler; None for as many steps as the gateway takes."""
    num_tokens: int
    """Streamed tokens; in the row of prompts, prompt tokens."""
    num_events: int
    tokens_per_s: float
    gateway_cpu_us_per_token: float
    scheduler_cpu_us_per_token: float
    client_cpu_us_per_token: float


def gateway(
    model: Annotated[
        str, typer.Option(help="Model whose tokenizer and template are used. It is fetched but not run.")
    ] = ("smollm2:135m"),
    num_requests: int = 64,
    concurrency: int = 32,
    output_len: int = 512,
    steps_per_s: Annotated[
        float | None, typer.Option(help="Steps of the fake scheduler, one token per stream each. Default: no limit.")
    ] = None,
    rounds: int = 3,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure streamed tokens per second, and processor time per token, of one gateway process."""
    subprocess.run([sys.executable, "-m", "pagoda.cli", "pull", model], check=True, stdout=subprocess.DEVNULL)
    plans = streaming_plans(model, num_requests=num_requests, concurrency=concurrency, output_len=output_len)
    plans["OpenAI chat, prompt tokens"] = prompt_plan(model, num_requests=num_requests, concurrency=concurrency)
    all_rounds = [[measure(name, plan, model, steps_per_s) for name, plan in plans.items()] for _ in range(rounds)]
    results = [
        min(of_one, key=lambda result: result.gateway_cpu_us_per_token) for of_one in zip(*all_rounds, strict=True)
    ]
    Console(stderr=True).print(table(results))
    write_numbers({"model": model, "output_len": output_len, "rounds": rounds}, results, output)


def measure(name: str, plan: Plan, model: str, steps_per_s: float | None) -> GatewayResult:
    """Measure one plan with processes of its own, so that no state is left from another."""
    with tempfile.TemporaryDirectory() as directory:
        address, port = f"unix:{directory}/scheduler.sock", free_port()
        pace = () if steps_per_s is None else ("--steps-per-s", str(steps_per_s))
        listening = ("--scheduler", address, "--port", str(port), "--ollama-port", "0", "--log-level", "warning")
        with (
            python_module("tests.fakes.instant_scheduler", "--listen", address, "--model", model, *pace) as scheduler,
            python_module("gateway", "--model", model, *listening) as gateway,
        ):
            wait_until_ready(gateway, f"http://127.0.0.1:{port}")
            run_client(replace(plan, num_requests=plan.concurrency), port)  # Warm up.
            before = cpu_s(gateway), cpu_s(scheduler)
            counts = run_client(plan, port)
            gateway_s, scheduler_s = cpu_s(gateway) - before[0], cpu_s(scheduler) - before[1]
    return GatewayResult(
        name=name,
        concurrency=plan.concurrency,
        steps_per_s=steps_per_s,
        num_tokens=counts.num_tokens,
        num_events=counts.num_events,
        tokens_per_s=counts.num_tokens / counts.duration_s,
        gateway_cpu_us_per_token=gateway_s / counts.num_tokens * 1e6,
        scheduler_cpu_us_per_token=scheduler_s / counts.num_tokens * 1e6,
        client_cpu_us_per_token=counts.cpu_s / counts.num_tokens * 1e6,
    )


def run_client(plan: Plan, port: int) -> Counts:
    command = [sys.executable, "-m", "bench.raw_client", "127.0.0.1", str(port)]
    client = subprocess.run(command, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True, check=True)
    return Counts(**json.loads(client.stdout))


def table(results: Sequence[GatewayResult]) -> Table:
    columns = Table(title="The gateway alone: processor time per token, in µs", title_justify="left")
    for name in ("", "streams", "tok/s", "gateway", "(fake scheduler", "client)"):
        columns.add_column(name, justify="right" if name else "left")
    for result in results:
        columns.add_row(
            result.name,
            str(result.concurrency),
            f"{result.tokens_per_s:.0f}",
            f"{result.gateway_cpu_us_per_token:.0f}",
            f"{result.scheduler_cpu_us_per_token:.0f}",
            f"{result.client_cpu_us_per_token:.0f}",
        )
    return columns
