"""`python -m bench gateway`: what a streamed token costs in the gateway, in front of a scheduler that answers at once.

The processor time per token is the number that holds on a machine that others use too: 200 µs of it are 5,000 tokens a
second on one core. Tokens that have gathered while the gateway was busy share an event, so events are counted beside tokens.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.processes import cpu_s, free_port, python_module, wait_until_ready
from bench.raw_client import Counts, Plan
from bench.report import write_numbers

PROMPT = "What is a pagoda?"
OPENAI_COUNT, OLLAMA_COUNT = r'"completion_tokens":(\d+)', r'"eval_count":(\d+)'


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayResult:
    api: str
    concurrency: int
    steps_per_s: float | None
    """Of the scheduler; None is as many as the gateway takes."""
    num_tokens: int
    num_events: int
    tokens_per_s: float
    gateway_cpu_us_per_token: float
    scheduler_cpu_us_per_token: float
    client_cpu_us_per_token: float


def plans(model: str, num_requests: int, concurrency: int, output_len: int) -> dict[str, Plan]:
    """One for each way to stream."""
    openai = {
        "model": model,
        "max_tokens": output_len,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    messages = [{"role": "user", "content": PROMPT}]
    ollama = {"model": model, "options": {"num_predict": output_len}}
    chat, completions = '"delta":{"content":', '"finish_reason":null'
    apis: dict[str, tuple[str, dict[str, Any], str, str]] = {
        "OpenAI chat": ("/v1/chat/completions", openai | {"messages": messages}, chat, OPENAI_COUNT),
        "OpenAI completions": ("/v1/completions", openai | {"prompt": PROMPT}, completions, OPENAI_COUNT),
        "Ollama chat": ("/api/chat", ollama | {"messages": messages}, '"done":false', OLLAMA_COUNT),
    }
    return {
        api: Plan(
            path=path,
            body=body,
            num_requests=num_requests,
            concurrency=concurrency,
            event_mark=mark,
            count_pattern=count,
        )
        for api, (path, body, mark, count) in apis.items()
    }


def gateway(
    model: Annotated[str, typer.Option(help="Whose tokenizer and template; it is fetched, but not run.")] = (
        "smollm2:135m"
    ),
    num_requests: int = 64,
    concurrency: int = 32,
    output_len: int = 1024,
    steps_per_s: Annotated[
        float | None, typer.Option(help="Of the scheduler, each with a token per stream; else as many as are taken.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the numbers to this file as JSON; else to stdout.")] = None,
) -> None:
    """Measure streamed tokens per second, and processor time per token, of one gateway process."""
    subprocess.run([sys.executable, "-m", "pagoda.cli", "pull", model], check=True, stdout=subprocess.DEVNULL)
    results = [
        measure(api, plan, model, steps_per_s)
        for api, plan in plans(model, num_requests, concurrency, output_len).items()
    ]
    Console(stderr=True).print(table(results))
    write_numbers({"model": model, "output_len": output_len}, results, output)


def measure(api: str, plan: Plan, model: str, steps_per_s: float | None) -> GatewayResult:
    """With processes of its own, so that nothing is measured in the state that something else left behind."""
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
        api=api,
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
    columns = Table(title="The gateway alone: processor time in µs per token", title_justify="left")
    for name in ("API", "streams", "tok/s", "gateway", "(fake scheduler", "client)", "tokens per event"):
        columns.add_column(name, justify="left" if name == "API" else "right")
    for result in results:
        columns.add_row(
            result.api,
            str(result.concurrency),
            f"{result.tokens_per_s:.0f}",
            f"{result.gateway_cpu_us_per_token:.0f}",
            f"{result.scheduler_cpu_us_per_token:.0f}",
            f"{result.client_cpu_us_per_token:.0f}",
            f"{result.num_tokens / result.num_events:.2f}",
        )
    return columns
