"""`python -m bench routing` compares routing policies in virtual time, below, near and beyond the workers' capacity.

The scheduler's own loop plans for modelled workers. An hour of sixteen GPUs takes a minute on one core, and every run
gives the same numbers.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bench.report import write_numbers
from bench.routing.simulation import RoutingResult, Scenario, simulate
from bench.routing.table import markdown
from bench.routing.virtual import POD
from bench.routing.workloads import Load, TimedWorkload, best_of, groups, mooncake, prefix_repetition, strangers
from scheduler.routing.router import POLICIES


def routing(
    trace: Annotated[
        Path | None,
        typer.Option(help="Mooncake trace (JSON lines with hash_ids) to replay after the other workloads."),
    ] = None,
    only: Annotated[str, typer.Option(help="Run only workloads whose name contains this text.")] = "",
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Compare routing policies in virtual time."""
    results = []
    for scenario in _scenarios(trace):
        if only in scenario.workload.name:
            results += [_run(scenario, policy) for policy in POLICIES]
    print(markdown(results), file=sys.stderr)
    write_numbers({"device": POD.name}, results, output)


def _run(scenario: Scenario, policy: str) -> RoutingResult:
    began_s = time.process_time()
    result = simulate(scenario, policy)
    used_s = time.process_time() - began_s
    print(f"{scenario.workload.name}, {scenario.load}, {policy}: {used_s:.0f} s", file=sys.stderr)
    return result


def _scenarios(trace: Path | None) -> Iterator[Scenario]:
    for per_s in (3, 6, 12):
        workload = groups(
            num_groups=75,
            users_per_group=5,
            shared_len=6000,
            own_len=1200,
            max_tokens=100,
            load=Load(per_s=per_s, num_requests=300, warm_up_per_s=1.25),
        )
        yield _scenario(workload, f"{per_s}/s", num_workers=4, num_pages=POD.num_pages)
    for per_s, is_skewed in ((8, False), (16, False), (16, True)):
        workload = prefix_repetition(
            num_prefixes=64,
            prefix_len=2048,
            suffix_len=512,
            max_tokens=64,
            load=Load(per_s=per_s, num_requests=600, warm_up_per_s=4),
            is_skewed=is_skewed,
        )
        yield _scenario(workload, f"{per_s}/s", num_workers=8, num_pages=3000)
    workload = best_of(num_samples=16, prompt_len=4000, max_tokens=50, load=Load(per_s=3, num_requests=80))
    yield _scenario(workload, "3/s", num_workers=8, num_pages=POD.num_pages)
    for per_s in (10, 20):
        workload = strangers(prompt_len=1000, max_tokens=100, load=Load(per_s=per_s, num_requests=800))
        yield _scenario(workload, f"{per_s}/s", num_workers=8, num_pages=POD.num_pages)
    if trace is not None:
        for speed in (4.0, 5.3):
            workload = mooncake(trace, scale=0.125, speed=speed)
            yield _scenario(workload, f"{speed:g} times as fast", num_workers=8, num_pages=POD.num_pages)


def _scenario(workload: TimedWorkload, load: str, *, num_workers: int, num_pages: int) -> Scenario:
    return Scenario(load=load, workload=workload, device=POD, num_workers=num_workers, num_pages=num_pages)
