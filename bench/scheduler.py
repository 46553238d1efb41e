"""`python -m bench scheduler` measures the cost of a token in the scheduler. Fake workers answer immediately.

A sequence-step is one sequence in one step: planned, sent to its worker, its result processed, its token delivered to the
client. Processor time per sequence-step is meaningful even on a shared machine: 20 µs mean 50,000 per second on one core.
Each load also runs against the loop alone, in this process and without messages; the difference is the cost of messages.
Rounds are interleaved; each row shows its cheapest round, which was disturbed least.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.processes import cpu_s, python_module
from bench.report import write_numbers
from bench.scheduler_client import SessionClient
from bench.scheduler_policy import policy_cpu_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests that are sent all at once. They wait in the queue while no worker has room."""

    name: str
    num_workers: int
    num_requests: int
    num_bursts: int
    """Repetitions. Processor time has a resolution of 10 ms, so short loads are repeated."""
    max_lease_steps: int
    """The scheduler's setting: how many steps a worker runs per plan. With 1, each step is planned."""


PROMPT_LEN = 32
SEQUENCES_PER_WORKER = 256
LOADS = [
    Load(name=name, num_workers=workers, num_requests=requests, num_bursts=bursts, max_lease_steps=lease)
    for name, workers, requests, bursts in (
        ("1 stream", 1, 1, 16),
        ("32 streams", 1, 32, 8),
        ("1024 streams", 4, 1024, 1),
        ("1024 streams, 1024 wait", 4, 2048, 1),
    )
    for lease in (1, 8)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerResult:
    load: str
    max_lease_steps: int
    num_sequence_steps: int
    sequence_steps_per_s: float
    scheduler_cpu_us: float
    """Processor time per sequence-step, of all threads of the process. So are the next three."""
    policy_cpu_us: float
    workers_cpu_us: float
    client_cpu_us: float


def scheduler(
    output_len: Annotated[int, typer.Option(help="Output tokens of each request.")] = 128,
    rounds: int = 3,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure sequence-steps per second, and processor time per sequence-step, of one scheduler process."""
    all_rounds = [[measure(load, output_len) for load in LOADS] for _ in range(rounds)]
    results = [min(of_one, key=lambda result: result.scheduler_cpu_us) for of_one in zip(*all_rounds, strict=True)]
    Console(stderr=True).print(table(results))
    write_numbers({"prompt_len": PROMPT_LEN, "output_len": output_len, "rounds": rounds}, results, output)


def measure(load: Load, output_len: int) -> SchedulerResult:
    num_steps = load.num_bursts * load.num_requests * output_len
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{directory}/scheduler.sock"
        settings = (
            "--max-waiting-per-tenant",
            "4096",
            "--max-lease-steps",
            str(load.max_lease_steps),
            "--log-level",
            "error",
        )
        workers = ("--num-workers", str(load.num_workers), "--max-step-sequences", str(SEQUENCES_PER_WORKER))
        with (
            python_module("scheduler", "--listen", address, *settings) as scheduler,
            python_module("tests.fakes.instant_workers", "--scheduler", address, *workers) as fakes,
        ):
            client = SessionClient(address, num_workers=load.num_workers)
            asyncio.run(client.run(load.num_requests, PROMPT_LEN, output_len=8))  # Warm up.
            before, own = (cpu_s(scheduler), cpu_s(fakes)), time.process_time()
            duration_s = asyncio.run(client.run(load.num_requests, PROMPT_LEN, output_len, load.num_bursts))
            scheduler_s, workers_s = cpu_s(scheduler) - before[0], cpu_s(fakes) - before[1]
            client_s = time.process_time() - own
    policy_s = policy_cpu_s(
        num_workers=load.num_workers,
        sequences_per_worker=SEQUENCES_PER_WORKER,
        num_requests=load.num_requests,
        prompt_len=PROMPT_LEN,
        output_len=output_len,
        max_lease_steps=load.max_lease_steps,
    )
    return SchedulerResult(
        load=load.name,
        max_lease_steps=load.max_lease_steps,
        num_sequence_steps=num_steps,
        sequence_steps_per_s=num_steps / duration_s,
        scheduler_cpu_us=scheduler_s / num_steps * 1e6,
        policy_cpu_us=policy_s / (load.num_requests * output_len) * 1e6,
        workers_cpu_us=workers_s / num_steps * 1e6,
        client_cpu_us=client_s / num_steps * 1e6,
    )


def table(results: Sequence[SchedulerResult]) -> Table:
    columns = Table(title="The scheduler alone: processor time per sequence-step, in µs", title_justify="left")
    for name in ("load", "lease", "steps/s", "scheduler", "its policy", "(workers", "client)"):
        columns.add_column(name, justify="left" if name == "load" else "right")
    for result in results:
        columns.add_row(
            result.load,
            str(result.max_lease_steps),
            f"{result.sequence_steps_per_s:.0f}",
            f"{result.scheduler_cpu_us:.1f}",
            f"{result.policy_cpu_us:.1f}",
            f"{result.workers_cpu_us:.1f}",
            f"{result.client_cpu_us:.1f}",
        )
    return columns
