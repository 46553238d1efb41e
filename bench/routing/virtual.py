"""A virtual clock that jumps to the next event, and modelled workers whose step times are a formula.

The loop that plans for them is the scheduler's own.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from scheduler.loop import SchedulerLoop
from scheduler.steps.step_plan import PlannedSequence, StepPlan
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import ModelLimits, WorkerInfo

PAGE_SIZE = 16
MODEL = "modelled"
VOCABULARY = 50_000
TOKEN_ID = 1
NETWORK_S = 0.0005


class VirtualTimer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class VirtualClock:
    """A `Clock` for the scheduler whose time advances only in `run`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._soon: deque[Callable[[], object]] = deque()
        self._later: list[tuple[float, int, Callable[[], object], VirtualTimer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> VirtualTimer:
        return self.call_at(self.now_s + delay, callback)

    def call_at(self, when_s: float, callback: Callable[[], object]) -> VirtualTimer:
        timer = VirtualTimer()
        heapq.heappush(self._later, (when_s, next(self._order), callback, timer))
        return timer

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            if self._soon:
                self._soon.popleft()()
                continue
            self.now_s, _, callback, timer = heapq.heappop(self._later)
            if not timer.is_cancelled:
                callback()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The hardware of a modelled worker. Times are in microseconds."""

    name: str
    step_us: float
    """Time of a step, regardless of its size: the weights are read once."""
    token_us: float
    """Additional time per token."""
    context_us: float
    """Additional time per token of context that a sequence attends to in a step: its keys and values are read once."""
    num_pages: int
    max_step_tokens: int
    max_step_sequences: int
    max_model_len: int

    def duration_s(self, plan: StepPlan) -> float:
        return (self.step_us + sum(self._chunk_us(planned) for planned in plan.scheduled)) / 1e6

    def _chunk_us(self, planned: PlannedSequence) -> float:
        return self.token_us * planned.num_tokens + self.context_us * (planned.start + planned.num_tokens)

    def info(self, worker_id: str, num_pages: int) -> WorkerInfo:
        limits = ModelLimits(
            page_size=PAGE_SIZE,
            num_pages=num_pages,
            max_model_len=self.max_model_len,
            max_step_tokens=self.max_step_tokens,
            max_step_sequences=self.max_step_sequences,
            vocab_size=VOCABULARY,
        )
        return WorkerInfo(
            worker_id=worker_id,
            epoch=1,
            model=MODEL,
            model_digest="0" * 64,
            device=self.name,
            numerics_id="modelled",
            weights_bytes=0,
            kv_bytes=0,
            limits=limits,
        )


# A pod of llm-d's benchmark 73-capacity: Qwen3-32B in bfloat16 on two H100s. 64 GB of weights and 262 kB of keys and values per
# token are read at 80 % of 6.7 TB/s. Prompts take the published times for 10,000 tokens (4.3 s cold, 0.6 s warm). The other limits
# are vLLM's for such a GPU.
POD = Device(
    name="2 x H100, 32B",
    step_us=12_000,
    token_us=360,
    context_us=0.05,
    num_pages=19_000,
    max_step_tokens=8192,
    max_step_sequences=256,
    max_model_len=131_072,
)


class ModelledWorker:
    """A `WorkerLink` that runs plans in order, each for as long as the device would take."""

    def __init__(
        self, loop: SchedulerLoop, clock: VirtualClock, device: Device, worker_id: str, num_pages: int
    ) -> None:
        self.busy_s = 0.0
        self.longest_step_s = 0.0
        self.num_tokens = 0
        self._loop = loop
        self._clock = clock
        self._device = device
        self._free_at_s = 0.0
        self._worker: AttachedWorker = loop.attachments.attach_worker(device.info(worker_id, num_pages), self)

    def send_step(self, plan: StepPlan) -> None:
        duration_s = self._device.duration_s(plan)
        self._free_at_s = max(self._free_at_s, self._clock.now_s + NETWORK_S) + duration_s
        self.busy_s += duration_s
        self.longest_step_s = max(self.longest_step_s, duration_s)
        self.num_tokens += sum(planned.num_tokens for planned in plan.scheduled)
        # Computed now, because a sequence's attempt may change before the result arrives.
        sampled = tuple(
            SampledTokens(
                sequence_id=planned.sequence.sequence_id,
                attempt=planned.sequence.computation.attempt,
                token_ids=(TOKEN_ID,),
            )
            for planned in plan.scheduled
            if planned.max_new_tokens
        )
        scored = tuple(each for planned in plan.scheduled if (each := _scored(planned)).logprobs)
        result = StepResult(step_id=plan.step_id, sampled=sampled, scored=scored)
        self._clock.call_at(self._free_at_s + NETWORK_S, lambda: self._loop.apply_result(self._worker, result))

    def send_recall(self, step_id: int) -> None:
        raise NotImplementedError("this simulation grants no leases")

    def send_unload(self) -> None:
        raise NotImplementedError("this simulation unloads no model")

    def send_drain(self) -> None:
        raise NotImplementedError("this simulation stops no worker")

    def send_load(self, model: str, digest: str) -> None:
        raise NotImplementedError("every worker of this simulation has its model")


def _scored(planned: PlannedSequence) -> ScoredTokens:
    sequence, first = planned.sequence, planned.start + 1
    end = min(planned.start + planned.num_tokens + 1, sequence.num_prompt_tokens)
    num_scores = 0 if sequence.sampling.num_prompt_logprobs is None else max(0, end - first)
    logprobs = (TokenLogprobs(logprob=-1.0, top=()),) * num_scores
    return ScoredTokens(
        sequence_id=sequence.sequence_id, attempt=sequence.computation.attempt, start=first, logprobs=logprobs
    )
