"""The scheduler's loop alone: workers and clients are calls within this process, so only the policy takes time."""

import random
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial

from pagoda.wire.events import Tokens
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import SampledTokens, StepResult
from scheduler.clock import TimerHandle
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.queue.events import ClientEvent
from scheduler.steps.step_plan import StepPlan
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import ModelLimits, WorkerInfo


class _Soon:
    """A `Clock` that runs callbacks in turn. It has no timers."""

    def __init__(self) -> None:
        self.callbacks: deque[Callable[[], object]] = deque()

    def time(self) -> float:
        return time.monotonic()

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self.callbacks.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> TimerHandle:
        raise NotImplementedError("this benchmark has no deadlines and loses no workers")


class _Counter:
    """A `Client` that counts tokens."""

    num_tokens = 0

    def deliver(self, events: Seq[ClientEvent]) -> None:
        self.num_tokens += sum(isinstance(event, Tokens) for event in events)


class _Echo:
    """A `WorkerLink` that answers each step in turn, with the same token for every sequence."""

    def __init__(self, loop: SchedulerLoop, clock: _Soon) -> None:
        self._loop = loop
        self._clock = clock
        self.worker: AttachedWorker | None = None

    def send_step(self, plan: StepPlan) -> None:
        for number in range(plan.max_steps):
            self._clock.call_soon(partial(self._answer, plan, number))

    def send_recall(self, step_id: int) -> None:
        raise NotImplementedError("this benchmark cancels no lease")

    def send_unload(self) -> None:
        raise NotImplementedError("this benchmark unloads no model")

    def send_drain(self) -> None:
        pass

    def _answer(self, plan: StepPlan, number: int) -> None:
        assert self.worker is not None
        sampled = tuple(
            SampledTokens(
                sequence_id=each.sequence.sequence_id, attempt=each.sequence.computation.attempt, token_ids=(1,)
            )
            for each in plan.scheduled
            if each.max_new_tokens and each.num_steps > number
        )
        self._loop.apply_result(self.worker, StepResult(step_id=plan.step_id + number, sampled=sampled))


def policy_cpu_s(
    *,
    num_workers: int,
    sequences_per_worker: int,
    num_requests: int,
    prompt_len: int,
    output_len: int,
    max_lease_steps: int,
) -> float:
    """Run the load and return the loop's processor time, from the first request to the last token."""
    clock, client, source = _Soon(), _Counter(), random.Random(0)
    loop = SchedulerLoop(clock, SchedulingPolicy(max_waiting=num_requests, max_lease_steps=max_lease_steps))
    for number in range(num_workers):
        link = _Echo(loop, clock)
        link.worker = loop.attachments.attach_worker(_info(f"w{number}", sequences_per_worker), link)
    requests = [
        InferenceRequest(
            request_id=str(number),
            model="instant",
            prompt_token_ids=source.choices(range(1, 40_000), k=prompt_len),
            sampling=SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True),
        )
        for number in range(num_requests)
    ]
    started = time.thread_time()
    for request in requests:
        loop.requests.submit_request(request, client)
    while clock.callbacks:
        clock.callbacks.popleft()()
    used_s = time.thread_time() - started
    assert client.num_tokens == num_requests * output_len
    return used_s


def _info(worker_id: str, max_step_sequences: int) -> WorkerInfo:
    limits = ModelLimits(
        page_size=16,
        num_pages=65_536,
        max_model_len=8192,
        max_step_tokens=8192,
        max_step_sequences=max_step_sequences,
        vocab_size=50_000,
    )
    return WorkerInfo(
        worker_id=worker_id,
        epoch=1,
        model="instant",
        model_digest="0" * 64,
        device="none",
        numerics_id="instant",
        weights_bytes=0,
        kv_bytes=0,
        limits=limits,
    )
