"""`python -m bench routing-cost` measures how long the scheduler takes to decide where a waiting sequence runs.

A decision is all work for one sequence in a round: find how much of its prompt each worker has cached, compute each worker's
load, and choose a worker. In a round, one worker plans its next step, and the queue is searched for sequences that suit it;
most suit other workers better. There are three kinds of prompts: new ones, ones whose prefix one worker has cached, and ones
whose prefix all workers have cached, which need the most look-ups.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.report import percentile, write_numbers
from bench.routing.virtual import PAGE_SIZE, POD, ModelledWorker, VirtualClock
from bench.routing.workloads import draw
from kvcache.block_hash import BlockHash, hash_blocks, root_hash
from pagoda.wire.sampling import SamplingParams
from scheduler.loop import SchedulerLoop
from scheduler.routing.placement import Round
from scheduler.routing.router import prefix_aware
from scheduler.steps.sequence import Sequence as WaitingSequence
from scheduler.steps.sequence_records import History
from scheduler.steps.steps_in_flight import MAX_STEPS_IN_FLIGHT, StepInFlight
from scheduler.steps.worker_state import AttachedWorker

ROOT = root_hash(model_digest="d", page_size=PAGE_SIZE)
NUM_RUNNING = 32
NUM_PAGES = 16_384
STEP = StepInFlight(
    step_id=1, num_tokens=32, num_new_tokens=0, work=0, num_context_tokens=32 * 8, computing=(), sampling={}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostResult:
    prompts: str
    num_waiting: int
    decision_p50_ms: float
    decision_p99_ms: float
    round_p50_ms: float
    round_p99_ms: float


def routing_cost(
    num_workers: int = 64,
    prompt_len: int = 8192,
    rounds: int = 200,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure the time that a routing decision takes."""
    source = random.Random(0)
    workers = _workers(num_workers)
    common = draw(source, prompt_len - 64)
    _cache(workers, [_sequence(0, common)])
    own = [draw(source, prompt_len - 64) for _ in workers]
    for worker, prefix in zip(workers, own, strict=True):
        _cache([worker], [_sequence(0, prefix)])
    kinds: dict[str, Callable[[], list[int]]] = {
        "new": lambda: draw(source, prompt_len),
        "one worker holds its prefix": lambda: source.choice(own) + draw(source, 64),
        "all workers hold its prefix": lambda: common + draw(source, 64),
    }
    results = [
        _measure(name, workers, [_sequence(number, prompt()) for number in range(num_waiting)], rounds)
        for name, prompt in kinds.items()
        for num_waiting in (1, 64)
    ]
    Console(stderr=True).print(_table(results))
    write_numbers({"num_workers": num_workers, "prompt_len": prompt_len, "rounds": rounds}, results, output)


def _workers(number: int) -> list[AttachedWorker]:
    """Return workers that decode NUM_RUNNING sequences and prefill a prompt."""
    loop, clock = SchedulerLoop(VirtualClock()), VirtualClock()
    for index in range(number):
        ModelledWorker(loop, clock, POD, f"w{index:02}", NUM_PAGES)
    workers = list(loop.workers.values())
    for worker in workers:
        worker.running.extend(_sequence(index, [1] * 8) for index in range(NUM_RUNNING))
        prefilling = _sequence(NUM_RUNNING, draw(random.Random(worker.info.worker_id), 4096))
        worker.prefilling[prefilling.sequence_id] = prefilling
    return workers


def _cache(workers: Sequence[AttachedWorker], sequences: Sequence[WaitingSequence]) -> None:
    for worker in workers:
        for sequence in sequences:
            blocks = sequence.block_hashes[1:]
            pages = worker.pool.allocate_pages(len(blocks))
            for page, block in zip(pages, blocks, strict=True):
                worker.pool.seal_block(page, block)
            worker.pool.release_pages(pages)


def _sequence(number: int, token_ids: list[int]) -> WaitingSequence:
    hashes: list[BlockHash] = [ROOT, *hash_blocks(ROOT, token_ids, PAGE_SIZE)]
    return WaitingSequence(
        sequence_id=number,
        request_id=str(number),
        sample_index=0,
        model="m",
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids),
        sampling=SamplingParams(),
        max_length=len(token_ids) + 1,
        priority=0,
        arrival=number,
        block_hashes=hashes,
        page_size=PAGE_SIZE,
        history=History(arrival_s=0.0),
    )


def _measure(name: str, workers: list[AttachedWorker], waiting: list[WaitingSequence], rounds: int) -> CostResult:
    """Measure processor time of rounds. A decision's time includes its share of the round's look at each worker."""
    round_ms, decision_ms = [], []
    for number in range(rounds):
        worker = workers[number % len(workers)]
        _only_one_plans(worker, workers)
        began_s = time.thread_time()
        this_round = Round(prefix_aware, workers, waiting, 0.0)
        for _ in this_round.sequences_placed_on(worker):
            pass
        round_ms.append((time.thread_time() - began_s) * 1000)
        decision_ms.append(round_ms[-1] / this_round.num_decided)
    round_ms.sort()
    decision_ms.sort()
    return CostResult(
        prompts=name,
        num_waiting=len(waiting),
        decision_p50_ms=percentile(decision_ms, 50),
        decision_p99_ms=percentile(decision_ms, 99),
        round_p50_ms=percentile(round_ms, 50),
        round_p99_ms=percentile(round_ms, 99),
    )


def _only_one_plans(worker: AttachedWorker, workers: Sequence[AttachedWorker]) -> None:
    for each in workers:
        each.steps.unanswered.clear()
        if each is not worker:
            each.steps.unanswered.extend([STEP] * MAX_STEPS_IN_FLIGHT)


def _table(results: Sequence[CostResult]) -> Table:
    columns = Table(title="Milliseconds, p50 / p99", title_justify="left")
    for name in ("prompts", "waiting", "a decision", "a round"):
        columns.add_column(name, justify="left" if name == "prompts" else "right")
    for result in results:
        columns.add_row(
            result.prompts,
            str(result.num_waiting),
            f"{result.decision_p50_ms:.3f} / {result.decision_p99_ms:.3f}",
            f"{result.round_p50_ms:.3f} / {result.round_p99_ms:.3f}",
        )
    return columns
