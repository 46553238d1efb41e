"""The simulation of one workload under one policy in virtual time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bench.report import Distribution, distribution
from bench.routing.virtual import MODEL, Device, ModelledWorker, VirtualClock
from bench.routing.workloads import TimedRequest, TimedWorkload
from pagoda.wire.events import Tokens
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.queue.events import ClientEvent, Failed
from scheduler.routing.router import POLICIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    load: str
    """Arrival rate, as text for the table."""
    workload: TimedWorkload
    device: Device
    num_workers: int
    num_pages: int
    """Pages of each worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingResult:
    workload: str
    load: str
    num_workers: int
    policy: str
    num_requests: int
    num_errors: int
    output_tokens_per_s: float
    cached_share: float
    """Share of the prompt tokens that were cached."""
    imbalance: float
    """Computing time of the busiest worker, divided by the mean of all workers."""
    num_preemptions: int
    ttft_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution


class _Client:
    """A client that records when tokens and ends of samples arrive."""

    def __init__(self, clock: VirtualClock) -> None:
        self.num_open = self.num_tokens = self.num_prompt_tokens = self.num_cached_tokens = 0
        self.ttft_s: list[float] = []
        self.itl_s: list[float] = []
        self.e2e_s: list[float] = []
        self._clock = clock
        self._asked_s: dict[str, float] = {}
        self._last_s: dict[tuple[str, int], float] = {}

    def record_request(self, request_id: str, request: TimedRequest) -> None:
        self.num_open += request.num_samples
        if request.is_measured:
            self._asked_s[request_id] = self._clock.now_s

    def deliver(self, events: Sequence[ClientEvent]) -> None:
        for event in events:
            match event:
                case Tokens() if event.request_id in self._asked_s:
                    self._record_token((event.request_id, event.sample_index))
                case Finished():
                    self._record_end(event.request_id, event)
                case Failed():
                    raise SystemExit(f"A request failed: {event.error}")

    def _record_end(self, request_id: str, finished: Finished) -> None:
        self.num_open -= 1
        if request_id in self._asked_s:
            self.e2e_s.append(self._clock.now_s - self._asked_s[request_id])
            self.num_prompt_tokens += finished.usage.num_prompt_tokens
            self.num_cached_tokens += finished.usage.num_cached_tokens

    def _record_token(self, key: tuple[str, int]) -> None:
        now_s = self._clock.now_s
        self.num_tokens += 1
        if key in self._last_s:
            self.itl_s.append(now_s - self._last_s[key])
        else:
            self.ttft_s.append(now_s - self._asked_s[key[0]])
        self._last_s[key] = now_s


def simulate(scenario: Scenario, policy: str) -> RoutingResult:
    """Run the scenario under a policy and return the results of its measured requests."""
    clock = VirtualClock()
    client = _Client(clock)
    requests = scenario.workload.requests
    num_samples = sum(request.num_samples for request in requests)
    loop = SchedulerLoop(clock, SchedulingPolicy(max_waiting=num_samples, routing=POLICIES[policy]))
    workers = [
        ModelledWorker(loop, clock, scenario.device, f"w{number:02}", scenario.num_pages)
        for number in range(scenario.num_workers)
    ]
    to_come = len(requests)

    def ask(number: int, request: TimedRequest) -> None:
        nonlocal to_come
        to_come -= 1
        client.record_request(str(number), request)
        loop.requests.submit_request(_inference_request(number, request), client)

    for number, request in enumerate(requests):
        clock.call_at(request.arrival_s, partial(ask, number, request))
    clock.run(until=lambda: to_come == 0 and client.num_open == 0)
    measured = [request for request in requests if request.is_measured]
    busy_s = [worker.busy_s for worker in workers]
    return RoutingResult(
        workload=scenario.workload.name,
        load=scenario.load,
        num_workers=scenario.num_workers,
        policy=policy,
        num_requests=len(measured),
        num_errors=sum(request.num_samples for request in measured) - len(client.e2e_s),
        output_tokens_per_s=client.num_tokens / (clock.now_s - measured[0].arrival_s),
        cached_share=client.num_cached_tokens / client.num_prompt_tokens,
        imbalance=max(busy_s) / (sum(busy_s) / len(busy_s)),
        num_preemptions=loop.counters.num_preemptions,
        ttft_ms=distribution(client.ttft_s),
        itl_ms=distribution(client.itl_s),
        e2e_ms=distribution(client.e2e_s),
    )


def _inference_request(number: int, request: TimedRequest) -> InferenceRequest:
    return InferenceRequest(
        request_id=str(number),
        model=MODEL,
        prompt_token_ids=request.prompt,
        sampling=SamplingParams(temperature=0.0, max_tokens=request.max_tokens, ignore_eos=True),
        num_samples=request.num_samples,
    )
