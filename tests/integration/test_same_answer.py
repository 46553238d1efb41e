"""Tests that a request always has the same answer, with the real scheduler loop over the real engine, in one thread.

Each request first runs alone. Then it runs beside others, in chunks, behind a cached prefix, with so few pages that it is
preempted, after its worker was lost, and resumed from the middle. Alone, each step is planned; beside others, the worker also runs
leases. Tokens and log-probabilities must have the same bits.
"""

import json
import re
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from pagoda.models.store import ModelStore
from pagoda.wire.constraint import Marker, Reasoning
from pagoda.wire.events import Tokens
from pagoda.wire.inference_request import InferenceRequest, ResumedSample
from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.rpc import worker_messages
from scheduler.steps import decode_promises
from scheduler.steps.step_plan import StepPlan
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import WorkerInfo
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.executors import EXECUTORS, Wrap, plain
from tests.fakes.grammar_vocabulary import constrained, make_byte_guides
from tests.fakes.plan_worker import worker_info
from tests.fakes.tiny_model import write_tiny_gguf
from worker.kernels.select import select_kernels
from worker.kv_memory import KVMemory
from worker.models.decoder import DecoderModel
from worker.models.families import load_model
from worker.steps.engine import BegunStep, Engine
from worker.steps.host_executor import HostExecutor
from worker.steps.lease import Lease
from worker.steps.step_messages import step_from_proto

PAGE = 4
MAX_TOKENS = 24


class EngineLink:
    """A `WorkerLink` to the engine; plans and results are converted to messages and back."""

    def __init__(self, decoder: DecoderModel, info: WorkerInfo, wrap: Wrap) -> None:
        kernels, config = select_kernels("integer", "cpu"), decoder.config
        layers = [
            kernels.allocate_kv(info.limits.num_pages, PAGE, config.num_kv_heads, config.head_size)
            for _ in range(config.num_layers)
        ]
        kv = KVMemory(layers=layers, page_size=PAGE, num_pages=info.limits.num_pages, num_bytes=0)
        self._engine = Engine(
            wrap(HostExecutor(decoder, kv, (), guides=make_byte_guides())),
            page_size=PAGE,
            num_pages=info.limits.num_pages,
            vocab_size=config.vocab_size,
            eos_token_ids=(),
        )
        self.max_new_tokens = self._engine.max_new_tokens
        self._queue: deque[Lease] = deque()
        self._in_flight: deque[tuple[Lease, BegunStep]] = deque()
        self._recalled_step_id = 0
        self.num_recalled = 0
        """Number of leases that ended early."""
        self.sizes = set[int]()
        """The different numbers of tokens that a step returned for a sequence."""

    def send_step(self, plan: StepPlan) -> None:
        self._queue.append(Lease(step_from_proto(worker_messages.plan_to_proto(plan, 1))))

    def send_recall(self, step_id: int) -> None:
        self._recalled_step_id = step_id

    def send_unload(self) -> None:
        raise AssertionError("no model is unloaded in this test")

    def send_drain(self) -> None:
        self._queue.clear()

    @property
    def is_busy(self) -> bool:
        return bool(self._in_flight) or self._next_lease() is not None

    def _next_lease(self) -> Lease | None:
        while self._queue and self._queue[0].is_over:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def run_step(self) -> worker_pb2.StepResult:
        """Begin as many steps as the engine takes and return the result of the first of them."""
        while len(self._in_flight) < self._engine.max_in_flight and (lease := self._next_lease()):
            self._in_flight.append((lease, self._engine.begin_step(lease.advance())))
        lease, begun = self._in_flight.popleft()
        result = self._engine.finish_step(begun)
        next_is_last = lease.observe(result, is_recalled=self._recalled_step_id == lease.first_step_id)
        self.num_recalled += next_is_last
        self.sizes.update(len(sampled.token_ids) for sampled in result.sampled)
        return replace(result, next_is_last=next_is_last).to_proto(session_id=1)


@dataclass
class Answer:
    token_ids: list[int]
    logprobs: list[float]


class System:
    def __init__(self, decoder: DecoderModel, wrap: Wrap = plain, *, max_lease_steps: int = 8, **limits: Any) -> None:
        limits = {"num_pages": 512, "max_step_tokens": 256, "max_step_sequences": 32, "vocab_size": 259} | limits
        self.info = worker_info(page_size=PAGE, max_model_len=256, **limits)
        self.clock, self.client = FakeClock(), RecordingClient()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(max_lease_steps=max_lease_steps))
        self._decoder, self._wrap = decoder, wrap
        self.attach()

    def attach(self) -> None:
        self.link = EngineLink(self._decoder, self.info, self._wrap)
        self.info = replace(self.info, limits=replace(self.info.limits, max_new_tokens=self.link.max_new_tokens))
        self.worker: AttachedWorker = self.loop.attachments.attach_worker(self.info, self.link)

    def submit(self, *requests: InferenceRequest) -> None:
        for request in requests:
            self.loop.requests.submit_request(request, self.client)
        self.clock.run_soon()

    def run(self, num_steps: int = 10_000) -> None:
        while self.link.is_busy and num_steps:
            num_steps -= 1
            self.loop.apply_result(self.worker, StepResult.from_proto(self.link.run_step()))
            self.clock.run_soon()

    def ask(self, *requests: InferenceRequest) -> dict[tuple[str, int], Answer]:
        self.submit(*requests)
        self.run()
        return self.answers()

    def answers(self) -> dict[tuple[str, int], Answer]:
        logprobs: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for event in self.client.events:
            if isinstance(event, Tokens):
                logprobs[event.request_id, event.sample_index] += [each.logprob for each in event.logprobs]
        return {key: Answer(tokens, logprobs[key]) for key, tokens in self.client.tokens.items()}

    def preemptions(self, request_id: str) -> int:
        return sum(end.timings.num_preemptions for key, end in self.client.finished.items() if key[0] == request_id)


MakeSystem = Callable[..., System]

SCHEMA = json.dumps(
    {
        "grammars": [
            {
                "json_schema": {
                    "type": "object",
                    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 100, "maximum": 999}},
                    "required": ["ok", "n"],
                    "additionalProperties": False,
                    "x-guidance": {"whitespace_flexible": False},
                }
            }
        ]
    }
)

SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0),
    "seeded": SamplingParams(temperature=1.0, seed=7),
    "filtered": SamplingParams(temperature=0.9, seed=11, top_k=40, top_p=0.9, min_p=0.01),
    "constrained": SamplingParams(
        temperature=0.8,
        seed=4,
        repetition_penalty=1.1,
        constraint=constrained(r'start: ("{\"first\":" /[a-z]{1,4}/ ",\"second\":" /[0-9]{1,3}/ "}")+'),
    ),
    "schema": SamplingParams(temperature=1.0, seed=5, constraint=constrained(SCHEMA)),
    "called": SamplingParams(
        temperature=1.0,
        seed=6,
        logit_bias={ord("!"): 6.0},
        constraint=constrained(r'start: "!" ("far" | "near") /[0-9]{2}/', triggers=(Marker(text=b"!"),)),
    ),
    "reasoned": SamplingParams(
        temperature=1.0,
        seed=8,
        constraint=constrained(
            r'start: "{\"sum\":" /[0-9]{1,3}/ "}"',
            reasoning=Reasoning(
                open=Marker(text=b"<r>"),
                is_open=True,
                close=Marker(text=b"</r>"),
                budget=7,
                closing_token_ids=tuple(b"</r>"),
            ),
        ),
    ),
    "banned": SamplingParams(
        temperature=1.0, seed=9, allowed_token_ids=tuple(b"abc"), bad_words=(tuple(b"ab"), tuple(b"cca"))
    ),
    "penalised": SamplingParams(
        temperature=0.7, seed=3, repetition_penalty=1.2, presence_penalty=0.5, logit_bias={65: 2.0}
    ),
}


def question(name: str, *, prompt: str = "Who is asking, and does it matter to the answer?") -> InferenceRequest:
    sampling = replace(
        SAMPLINGS[name],
        max_tokens=MAX_TOKENS,
        ignore_eos=True,
        num_logprobs=0,
        constraint=SAMPLINGS[name].constraint or IDLE_CONSTRAINT,
    )
    return InferenceRequest(
        request_id=name, model="fake", prompt_token_ids=list(prompt.encode()), sampling=sampling, num_samples=2
    )


def strangers(count: int) -> list[InferenceRequest]:
    """Return concurrent requests of others, with prompts and answers of many lengths."""
    asked = [question("seeded", prompt=f"Somebody else, number {i}. " * (1 + i % 4)) for i in range(count)]
    return [
        replace(each, request_id=f"stranger {i}", sampling=replace(each.sampling, constraint=None))
        for i, each in enumerate(asked)
    ]


CASES = {name: (0, wrap) for name, wrap in EXECUTORS.items()} | {"experts": (6, plain)}
"""The number of the model's experts, 0 for a dense model, and the kind of executor."""


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, DecoderModel]:
    """Return a model for each number of experts."""
    home, kernels = tmp_path_factory.mktemp("home"), select_kernels("integer", "cpu")
    return {
        number: load_model(
            ModelStore(home).get(str(write_tiny_gguf(home / f"{number}.gguf", seed=5, num_experts=number))), kernels
        )
        for number in (0, 6)
    }


@pytest.fixture(scope="module")
def answers_alone(decoders: dict[int, DecoderModel]) -> dict[int, dict[tuple[str, int], Answer]]:
    return {number: _ask_alone(decoder) for number, decoder in decoders.items()}


def _ask_alone(decoder: DecoderModel) -> dict[tuple[str, int], Answer]:
    """Return the answers of questions that each have a system of their own."""
    answers: dict[tuple[str, int], Answer] = {}
    for name in SAMPLINGS:
        answers |= System(decoder, max_lease_steps=1).ask(question(name))
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == len(answers) - 1, (
        "only greedy samples agree"
    )
    return answers


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[int, Wrap]:
    number_and_wrap: tuple[int, Wrap] = request.param
    return number_and_wrap


@pytest.fixture
def alone(
    case: tuple[int, Wrap], answers_alone: dict[int, dict[tuple[str, int], Answer]]
) -> dict[tuple[str, int], Answer]:
    """Return the answers that each question has alone."""
    return answers_alone[case[0]]


def test_the_answers_alone_are_constrained(alone: dict[tuple[str, int], Answer]) -> None:
    texts = {key: bytes(answer.token_ids) for key, answer in alone.items() if max(answer.token_ids) < 256}
    ends = {key: bytes(token_id for token_id in answer.token_ids if token_id < 256) for key, answer in alone.items()}
    for index in (0, 1):
        assert json.loads(ends["schema", index]).keys() == {"ok", "n"}
        reasoning, _, answered = ends["reasoned", index].partition(b"</r>")
        assert len(reasoning) == 7 and json.loads(answered).keys() == {"sum"}
        assert set(texts["banned", index]) == set(b"abc") and not re.search(b"ab|cca", texts["banned", index])
        calls = re.findall(rb"!(?:far|near)[0-9]{2}", ends["called", index])
        assert calls and len(calls) >= ends["called", index].count(b"!") - 1


@pytest.fixture
def in_company(
    case: tuple[int, Wrap], decoders: dict[int, DecoderModel], monkeypatch: pytest.MonkeyPatch
) -> MakeSystem:
    """Return a function that makes a system whose worker has this kind of executor. All steps may bring several tokens."""
    monkeypatch.setattr(decode_promises, "MOST_DECODES", 1000)
    num_experts, wrap = case
    return partial(System, decoders[num_experts], wrap)


def assert_same(given: dict[tuple[str, int], Answer], alone: dict[tuple[str, int], Answer], *names: str) -> None:
    expected = {key: answer for key, answer in alone.items() if key[0] in names}
    assert len(expected) == 2 * len(names)
    assert {key: given[key] for key in expected} == expected


def test_in_company(in_company: MakeSystem, alone: dict[tuple[str, int], Answer]) -> None:
    system = in_company()
    system.submit(*strangers(5))
    system.run(3)
    system.submit(*map(question, SAMPLINGS))
    system.run(4)
    late = [replace(each, request_id="late " + each.request_id) for each in strangers(3)]
    assert_same(system.ask(*late), alone, *SAMPLINGS)
    assert system.link.num_recalled
    assert min(system.link.sizes) == 1 < max(system.link.sizes)


@pytest.mark.parametrize("max_step_tokens", [1, 5, 16])
def test_in_chunks(in_company: MakeSystem, alone: dict[tuple[str, int], Answer], max_step_tokens: int) -> None:
    assert_same(in_company(max_step_tokens=max_step_tokens).ask(*map(question, SAMPLINGS)), alone, *SAMPLINGS)


def test_behind_a_cached_prefix(in_company: MakeSystem, alone: dict[tuple[str, int], Answer]) -> None:
    system = in_company()
    system.ask(replace(question("greedy"), request_id="before"))
    answers = system.ask(*map(question, SAMPLINGS))
    assert all(end.usage.num_cached_tokens >= 44 for key, end in system.client.finished.items() if key[0] in SAMPLINGS)
    assert_same(answers, alone, *SAMPLINGS)


def test_after_preemption(in_company: MakeSystem, alone: dict[tuple[str, int], Answer]) -> None:
    system = in_company(num_pages=30)
    # The strangers came first, so the questions are preempted.
    answers = system.ask(*strangers(3), *map(question, SAMPLINGS))
    assert all(system.preemptions(name) > 0 for name in ("filtered", "constrained", "penalised"))
    assert_same(answers, alone, *SAMPLINGS)


def test_after_the_worker_was_lost(in_company: MakeSystem, alone: dict[tuple[str, int], Answer]) -> None:
    system = in_company()
    system.submit(*map(question, SAMPLINGS))
    system.run(7)
    system.loop.attachments.detach_worker(system.worker)
    system.attach()
    system.clock.run_soon()
    system.run()
    assert_same(system.answers(), alone, *SAMPLINGS)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_resumed_from_the_middle(in_company: MakeSystem, alone: dict[tuple[str, int], Answer], name: str) -> None:
    system = in_company()
    begun = {index: alone[name, index].token_ids[:9] for index in (0, 1)}
    for index, token_ids in begun.items():
        system.client.tokens[name, index] = list(token_ids)
    resumed = [ResumedSample(sample_index=index, generated_token_ids=tuple(ids)) for index, ids in begun.items()]
    answers = system.ask(replace(question(name), resumed=tuple(resumed)))
    assert {index: answers[name, index].token_ids for index in (0, 1)} == {
        index: alone[name, index].token_ids for index in (0, 1)
    }
