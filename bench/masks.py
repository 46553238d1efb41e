"""`python -m bench masks` measures what the masks of constrained sequences add to a step, and what forced tokens save.

Three batches of the same size take steps in turn on one engine, so that a change of the machine's speed affects all: free
sequences alone, and twice half of them constrained by a JSON schema, with one token for each step, and with as many as are
forced. All sequences of a step wait for it, so the ratio of the step times is what a free sequence pays for its neighbours.
"""

import hashlib
import json
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.report import write_numbers
from bench.workloads import Vocabulary
from pagoda.cli.fetch import fetch_model
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.store import ModelStore
from pagoda.rpc.sockets import default_home
from pagoda.wire.constraint import Constraint
from pagoda.wire.sampling import SamplingParams
from worker.loading.start import load_worker
from worker.settings import WorkerSettings
from worker.steps.engine_thread import StepRunner
from worker.steps.step import NewSequence, ScheduledSequence, Step

# An array that goes on: free texts between names of fields, which the schema forces.
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "kind": {"enum": ["person", "place", "organization", "product"]},
            "score": {"type": "integer", "minimum": 0, "maximum": 1000},
        },
        "required": ["name", "kind", "score"],
        "additionalProperties": False,
    },
}
GRAMMAR = json.dumps({"grammars": [{"json_schema": SCHEMA}]})
CONSTRAINT = Constraint(grammar=GRAMMAR, digest=hashlib.sha256(GRAMMAR.encode()).digest())
PAGE_SIZE = 16
NUM_WARM_UP = 8
"""Number of first steps of a batch that do not count: the grammar is compiled meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasksResult:
    num_free: int
    num_constrained: int
    """Number of constrained sequences in the second and third batch. In the first, as many more are free."""
    num_steps: int
    free_step_ms: float
    """Median time of a step whose sequences are all free."""
    masked_step_ms: float
    """Median time of a step with constrained sequences that get one token."""
    masked_ratio: float
    """The median of the ratios of steps that followed each other."""
    masked_cpu_ratio: float
    """The same for the processor time of all threads."""
    forced_step_ratio: float
    """The ratio for steps in which constrained sequences get their forced tokens, too."""
    forced_tokens_per_step: float
    """Mean number of new tokens that such a step has for a constrained sequence."""


class Batch:
    """Sequences of the same length that decode together."""

    def __init__(self, engine: StepRunner, first_id: int, constrained: list[bool], most: int, length: int) -> None:
        """Create the batch; the numbers of its sequences and pages begin at `first_id` and behind those of the batches before."""
        self._engine = engine
        self._most = [most if is_constrained else 1 for is_constrained in constrained]
        self._ids = range(first_id, first_id + len(constrained))
        self._constrained = constrained
        self._pages = length // PAGE_SIZE
        self._ends: dict[int, int] = {}
        self.times_s: list[float] = []
        self.cpu_s: list[float] = []
        self.num_constrained_tokens: list[int] = []

    def prefill(self, input_len: int, step_id: int) -> None:
        """Compute the prompts, one after the other. Constrained and free sequences have the same prompts in each batch."""
        source = random.Random(input_len)
        for place, (sequence_id, is_constrained) in enumerate(zip(self._ids, self._constrained, strict=True)):
            sampling = SamplingParams(
                temperature=1.0, seed=place, ignore_eos=True, constraint=CONSTRAINT if is_constrained else None
            )
            new = NewSequence(
                sequence_id=sequence_id,
                attempt=1,
                token_ids=Vocabulary().draw(source, input_len),
                num_prompt_tokens=input_len,
                sampling=sampling,
                sample_index=0,
            )
            pages = tuple(range(sequence_id * self._pages, (sequence_id + 1) * self._pages))
            chunk = ScheduledSequence(sequence_id, 0, 0, input_len, pages, 1)
            self._run(Step(step_id=step_id + place, new_sequences=(new,), scheduled=(chunk,)))
            self._ends[sequence_id] = input_len + 1

    def decode(self, step_id: int) -> None:
        """Run one step and record it."""
        scheduled = tuple(
            self._next(sequence_id, most) for sequence_id, most in zip(self._ids, self._most, strict=True)
        )
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        counts = self._run(Step(step_id=step_id, scheduled=scheduled))
        self.times_s.append(time.perf_counter() - started_s)
        self.cpu_s.append(time.process_time() - started_cpu_s)
        for sequence_id, count in counts.items():
            self._ends[sequence_id] += count
        self.num_constrained_tokens += [
            counts[each] for each, is_so in zip(self._ids, self._constrained, strict=True) if is_so
        ]

    def _next(self, sequence_id: int, most: int) -> ScheduledSequence:
        end = self._ends[sequence_id]
        room = max(1, self._pages * PAGE_SIZE + 1 - end)
        return ScheduledSequence(sequence_id, end - 1, end - 1, 1, (), min(most, room))

    def _run(self, step: Step) -> dict[int, int]:
        result = self._engine.finish_step(self._engine.begin_step(step))
        return {sampled.sequence_id: len(sampled.token_ids) for sampled in result.sampled}


def masks(
    model: Annotated[str, typer.Option(help="Default: the default model.")] = DEFAULT_MODEL,
    num_free: int = 32,
    num_constrained: int = 32,
    num_steps: Annotated[int, typer.Option(min=NUM_WARM_UP + 1, help="Steps of each batch.")] = 96,
    output: Annotated[Path | None, typer.Option(help="JSON file for the numbers. Default: stdout.")] = None,
) -> None:
    """Measure what masks add to a step, and what forced tokens save."""
    result = measure(model, num_free, num_constrained, num_steps)
    Console(stderr=True).print(table(result))
    write_numbers({"model": model, "schema": SCHEMA}, [result], output)


def measure(model: str, num_free: int, num_constrained: int, num_steps: int, input_len: int = 64) -> MasksResult:
    home = default_home()
    fetch_model(home, model)
    most, num_sequences = 16, num_free + num_constrained
    # Where a sequence had more than two tokens in each step, it would get fewer at its end.
    length = PAGE_SIZE * -(-(input_len + 1 + 2 * num_steps) // PAGE_SIZE)
    settings = WorkerSettings(
        home=home,
        model=model,
        page_size=PAGE_SIZE,
        max_step_sequences=num_sequences,
        # A worker has pages for 64 sequences of this length by default.
        max_model_len=-(-3 * length * num_sequences // 64),
    )
    engine = load_worker(settings, ModelStore(home).get(model)).engine
    mixed = [number % 2 == 1 for number in range(2 * min(num_free, num_constrained))]
    mixed += [num_constrained > num_free] * (num_sequences - len(mixed))
    batches = [
        Batch(engine, number * num_sequences, constrained, most, length)
        for number, (constrained, most) in enumerate([([False] * num_sequences, 1), (mixed, 1), (mixed, most)])
    ]
    step_id = 1
    for batch in batches:
        batch.prefill(input_len, step_id)
        step_id += num_sequences
    for _ in range(num_steps):
        for batch in batches:
            batch.decode(step_id)
            step_id += 1
    free, masked, forced = batches
    return MasksResult(
        num_free=num_free,
        num_constrained=num_constrained,
        num_steps=num_steps - NUM_WARM_UP,
        free_step_ms=1000 * statistics.median(free.times_s[NUM_WARM_UP:]),
        masked_step_ms=1000 * statistics.median(masked.times_s[NUM_WARM_UP:]),
        masked_ratio=ratio(masked.times_s, free.times_s),
        masked_cpu_ratio=ratio(masked.cpu_s, free.cpu_s),
        forced_step_ratio=ratio(forced.times_s, free.times_s),
        forced_tokens_per_step=statistics.mean(forced.num_constrained_tokens),
    )


def ratio(values: list[float], others: list[float]) -> float:
    pairs = zip(values[NUM_WARM_UP:], others[NUM_WARM_UP:], strict=True)
    return statistics.median(value / other for value, other in pairs)


def table(result: MasksResult) -> Table:
    free, constrained = result.num_free, result.num_constrained
    title = f"{free} free sequences beside {constrained} others, {result.num_steps} steps of each kind"
    columns = Table(
        "the others", "step, ms", "ratio", "processor time", "tokens each", title=title, title_justify="left"
    )
    columns.add_row("free", f"{result.free_step_ms:.2f}", "1", "1", "1")
    masked = (f"{result.masked_ratio:.3f}", f"{result.masked_cpu_ratio:.3f}")
    columns.add_row("constrained", f"{result.masked_step_ms:.2f}", *masked, "1")
    columns.add_row(
        "constrained, with forced tokens",
        "",
        f"{result.forced_step_ratio:.3f}",
        "",
        f"{result.forced_tokens_per_step:.2f}",
    )
    return columns
