"""A state machine test of the scheduler: random joins, leaves, preemptions, lost, killed and leaving workers, unloaded models, late
results.

Every client gets exactly its tokens.
"""

import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.errors import SequenceFailedError, WorkerProtocolError
from scheduler.loop import SchedulerLoop
from scheduler.models.worker_stores import UnloadedWorker
from scheduler.policy import SchedulingPolicy
from scheduler.routing.router import POLICIES
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import PrefillLimits
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_info import only_itself
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.plan_worker import EOS, PlanWorker, expected_output, prompt_logprob, worker_info

VOCAB = 11
MAX_LEN = 40
PREFIXES = [list(range(1, 11)), [3] * 13, [5, 4]]
prompts = st.builds(
    lambda prefix, suffix: prefix + suffix,
    st.sampled_from(PREFIXES),
    st.lists(st.integers(1, VOCAB - 1), max_size=14),
)


@dataclass
class Asked:
    prompt: list[int]
    num_samples: int
    max_tokens: int
    ignore_eos: bool
    is_scored: bool
    deadly_length: int | None
    """Length beyond which the request kills its worker."""

    def expected(self) -> list[int]:
        max_tokens = min(self.max_tokens, MAX_LEN - len(self.prompt))
        return expected_output(self.prompt, max_tokens=max_tokens, vocab_size=VOCAB, ignore_eos=self.ignore_eos)


class SchedulerMachine(RuleBasedStateMachine):
    max_new_tokens = 1
    """Maximum number of new tokens that a worker's step returns for one sequence."""

    @initialize(
        num_pages=st.integers(7, 24),
        step_tokens=st.integers(1, 24),
        step_sequences=st.integers(1, 10),
        lease_steps=st.integers(1, 9),
        recall_delay=st.integers(0, 3),
        routing=st.sampled_from(sorted(POLICIES)),
        prefill=st.builds(
            PrefillLimits,
            max_num_partial=st.integers(1, 4),
            max_long_partial=st.integers(1, 3),
            long_token_threshold=st.integers(1, 12),
        ),
        seed=st.integers(0, 99),
    )
    def make(
        self,
        num_pages: int,
        step_tokens: int,
        step_sequences: int,
        lease_steps: int,
        recall_delay: int,
        routing: str,
        prefill: PrefillLimits,
        seed: int,
    ) -> None:
        self.limits = {
            "max_new_tokens": self.max_new_tokens,
            "num_pages": num_pages,
            "max_step_tokens": step_tokens,
            "max_step_sequences": step_sequences,
            "max_model_len": MAX_LEN,
            "vocab_size": VOCAB,
        }
        self.clock = FakeClock()
        self.loop = SchedulerLoop(
            self.clock, SchedulingPolicy(max_lease_steps=lease_steps, routing=POLICIES[routing], prefill_limits=prefill)
        )
        self.recall_delay, self.seed = recall_delay, seed
        self.client = RecordingClient()
        self.asked: dict[str, Asked] = {}
        self.left: set[str] = set()
        self.stopped_at: dict[tuple[str, int], int] = {}
        self.workers: dict[AttachedWorker, PlanWorker] = {}
        self.num_deaths: Counter[str] = Counter()
        """Number of workers that died with steps of a request in flight."""
        self.num_kills: Counter[str] = Counter()
        self.died_alone: set[str] = set()
        """Requests that a worker computed alone when it died, after two earlier deaths."""
        self.gone: list[tuple[AttachedWorker, PlanWorker]] = []
        self.leaving: list[PlanWorker] = []
        """Workers that unload and have not come back yet."""
        self.unloaded: dict[UnloadedWorker, PlanWorker] = {}
        self.attach("w0")

    def settle(self) -> None:
        self.clock.advance(0)
        for worker, fake in list(self.workers.items()):
            if fake.is_unloaded:
                del self.workers[worker]
                self.leaving.append(fake)
            elif fake.is_draining:
                assert not fake.queue, "it was dismissed with steps before it"
                del self.workers[worker]
                self.loop.attachments.detach_worker(worker)

    @rule(worker_id=st.sampled_from(["w0", "w1", "w2"]))
    def attach(self, worker_id: str) -> None:
        """Let a worker open a stream, perhaps while the scheduler still has its old one."""
        fake = PlanWorker(worker_info(worker_id, **self.limits), recall_delay=self.recall_delay, seed=self.seed)
        old = self.loop.workers.get(worker_id)
        worker = self.loop.attachments.attach_worker(fake.info, fake)
        self.leaving = [left for left in self.leaving if left.info.worker_id != worker_id]
        self.unloaded = {w: link for w, link in self.unloaded.items() if w.worker_id != worker_id}
        if old is not None:
            self.gone.append((old, self.workers.pop(old)))
        self.workers[worker] = fake
        self.settle()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), num_more_steps=st.integers(0, 2))
    def attach_again(self, data: st.DataObject, num_more_steps: int) -> None:
        """Break a worker's stream. Its running steps still write to its pages, and it comes back with the blocks that they hold."""
        worker = data.draw(st.sampled_from(sorted(self.workers, key=lambda w: w.info.worker_id)))
        fake = self.workers.pop(worker)
        for _ in range(min(num_more_steps, len(fake.queue))):
            fake.run_step()
        fake.lose_stream()
        again = PlanWorker(fake.info, fake.memory, self.recall_delay, self.seed)
        self.workers[self.loop.attachments.attach_worker(again.info, again, tuple(again.memory.names.items()))] = again
        self.settle()

    @precondition(lambda self: self.workers or self.leaving or self.unloaded)
    @rule(keep_alive_s=st.sampled_from([0.0, math.inf]))
    def keep_loaded(self, keep_alive_s: float) -> None:
        self.loop.loading.keep_loaded("fake", keep_alive_s, lambda error: None)
        self.settle()

    @precondition(lambda self: self.leaving)
    @rule()
    def attach_unloaded(self) -> None:
        fake = self.leaving.pop()
        link = PlanWorker(fake.info)
        self.unloaded[
            self.loop.attachments.attach_unloaded_worker(link.info.worker_id, only_itself(link.info), link)
        ] = link
        self.settle()

    @precondition(lambda self: any(link.loads for link in self.unloaded.values()))
    @rule()
    def end_load(self) -> None:
        self.attach(next(link.info.worker_id for link in self.unloaded.values() if link.loads))

    @precondition(lambda self: self.workers or self.leaving or self.unloaded)
    @rule(
        prompt=prompts,
        num_samples=st.integers(1, 3),
        max_tokens=st.integers(1, 30),
        ignore_eos=st.booleans(),
        priority=st.integers(-1, 1),
        tenant=st.sampled_from(["a", "b", "c"]),
        is_scored=st.booleans(),
        is_constrained=st.booleans(),
        deadly_length=st.none() | st.none() | st.integers(0, 24),
    )
    def submit(
        self,
        prompt: list[int],
        num_samples: int,
        max_tokens: int,
        ignore_eos: bool,
        priority: int,
        tenant: str,
        is_scored: bool,
        is_constrained: bool,
        deadly_length: int | None,
    ) -> None:
        request_id = f"r{len(self.asked)}"
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
            num_prompt_logprobs=0 if is_scored else None,
            constraint=IDLE_CONSTRAINT if is_constrained else None,
        )
        request = InferenceRequest(
            request_id=request_id,
            model="fake",
            prompt_token_ids=prompt,
            sampling=sampling,
            num_samples=num_samples,
            priority=priority,
            tenant=tenant,
        )
        self.asked[request_id] = Asked(prompt, num_samples, max_tokens, ignore_eos, is_scored, deadly_length)
        self.loop.requests.submit_request(request, self.client)
        self.settle()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), num_steps=st.integers(1, 6))
    def run_steps(self, data: st.DataObject, num_steps: int) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers, key=lambda w: w.info.worker_id)))
        fake = self.workers[worker]
        for _ in range(num_steps):
            if worker in self.workers and fake.queue:
                self.run_step(worker)

    def run_step(self, worker: AttachedWorker) -> None:
        """Run a step, which ends well or kills the worker."""
        fake = self.workers[worker]
        killers = [name for name, length in fake.next_reaches().items() if self.kills(name, length)]
        if killers:
            running = {sequence.request_id for sequence in worker.running}
            # If the worker was leaving, the scheduler cannot know that it was killed.
            if worker.phase is WorkerPhase.SERVING:
                self.num_kills.update(running.intersection(killers))
            self.kill(worker)
        else:
            self.loop.apply_result(worker, fake.run_step())
        self.settle()

    def kills(self, request_id: str, length: int) -> bool:
        deadly_length = self.asked[request_id].deadly_length
        return deadly_length is not None and length > deadly_length

    def kill(self, worker: AttachedWorker) -> None:
        in_flight = {sequence.sequence_id: sequence for step in worker.steps.unanswered for sequence in step.computing}
        names = {sequence.request_id for sequence in in_flight.values()}
        self.num_deaths.update(names)
        if len(in_flight) == 1:
            self.died_alone.update(name for name in names if self.num_deaths[name] > 2)
        self.gone.append((worker, self.workers.pop(worker)))
        self.loop.attachments.detach_worker(worker)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.asked)))
        self.loop.requests.cancel_request(self.client, request_id)
        self.left.add(request_id)
        self.settle()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def stop_string(self, data: st.DataObject) -> None:
        """End a sample as if the gateway had found a stop string in its tokens."""
        request_id = data.draw(st.sampled_from(sorted(self.asked)))
        key = (request_id, data.draw(st.integers(0, self.asked[request_id].num_samples - 1)))
        if self.client.tokens[key] and key not in self.client.finished:
            num_tokens = data.draw(st.integers(1, len(self.client.tokens[key])))
            self.loop.requests.finish_sample(self.client, *key, num_tokens)
            self.settle()
            if key in self.client.finished:
                self.stopped_at[key] = num_tokens

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def lose_worker(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers, key=lambda w: w.info.worker_id)))
        self.kill(worker)
        self.settle()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_leaves(self, data: st.DataObject) -> None:
        """Let a worker ask to leave. It goes when it is dismissed."""
        self.loop.attachments.let_worker_leave(
            data.draw(st.sampled_from(sorted(self.workers, key=lambda w: w.info.worker_id)))
        )
        self.settle()

    @rule(max_age=st.integers(1, 2))
    def collect_idle_memory(self, max_age: int) -> None:
        """Let the workers return the memory of idle pages. PlanWorker wipes these pages."""
        for worker in self.workers:
            if worker.phase is WorkerPhase.SERVING and worker.collect_idle_pages(max_age):
                self.loop.wake()
        self.settle()

    @precondition(lambda self: any(fake.queue for _, fake in self.gone))
    @rule()
    def late_result(self) -> None:
        """Let a worker send an answer after its stream has ended."""
        worker, fake = next(pair for pair in self.gone if pair[1].queue)
        with pytest.raises(WorkerProtocolError):
            self.loop.apply_result(worker, fake.run_step())

    @invariant()
    def pages_and_sequences_add_up(self) -> None:
        if not hasattr(self, "loop"):
            return
        for worker in self.loop.workers.values():
            worker.pool.check_invariants()
            held = {page for sequence in worker.running for page in sequence.computation.block_table}
            assert worker.pool.num_used == len(held), "a page is used by nobody"
            assert len(worker.steps.unanswered) <= 2
            assert worker.steps.lease is None or len(worker.steps.unanswered) == 2, (
                "a lease, and yet the worker may have to wait"
            )
            for sequence in worker.running:
                self.check_promises(worker, sequence)
            names = self.workers[worker].memory.names
            assert len(set(names.values())) == len(names), "two pages are said to hold the same block"
            assert sum(step.num_tokens for step in worker.steps.unanswered) <= 2 * self.limits["max_step_tokens"]
        waiting = list(self.loop.waiting)
        assert len(waiting) == len(self.loop.waiting) == len(set(map(id, waiting)))
        priorities = [sequence.priority for sequence in waiting]
        assert priorities == sorted(priorities)

    def check_promises(self, worker: AttachedWorker, sequence: Sequence) -> None:
        promised = [
            most
            for step in worker.steps.unanswered
            for each, attempt, most in step.sampling.values()
            if each is sequence and attempt == sequence.computation.attempt
        ]
        assert (sequence.computation.num_sampling, sequence.computation.num_uncertain) == (
            sum(promised),
            sum(promised) - len(promised),
        )
        assert sequence.length <= sequence.max_length
        assert sequence.computation.num_computed <= len(sequence.computation.block_table) * sequence.page_size
        assert sequence.computation.num_computed < sequence.length

    @invariant()
    def nobody_waits_beside_an_idle_worker(self) -> None:
        if hasattr(self, "loop") and self.loop.waiting and (serving := self.serving()):
            assert any(worker.is_busy for worker in serving)

    @invariant()
    def nobody_waits_for_a_model_that_is_not_being_loaded(self) -> None:
        if hasattr(self, "loop") and self.loop.waiting and not self.loop.workers:
            assert all(worker.is_busy for worker in self.unloaded)

    def serving(self) -> list[AttachedWorker]:
        return [worker for worker in self.loop.workers.values() if worker.phase is WorkerPhase.SERVING]

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.attach_if_none()
        while any(fake.queue for fake in self.workers.values()):
            for worker, fake in list(self.workers.items()):
                if fake.queue:
                    self.run_step(worker)
            self.attach_if_none()
        self.check_answers()
        assert all(count <= 3 * self.asked[name].num_samples for name, count in self.num_kills.items())
        assert not self.loop.waiting and not self.loop.num_running
        assert all(worker.pool.num_used == 0 for worker in self.loop.workers.values())

    def attach_if_none(self) -> None:
        if not self.serving():
            self.attach("w0")

    def check_answers(self) -> None:
        for request_id, asked in self.asked.items():
            if request_id in self.client.failed:
                assert isinstance(self.client.failed[request_id], SequenceFailedError)
                assert request_id in self.died_alone, "it failed although others may have been the reason"
                continue
            for index in range(asked.num_samples):
                self.check_sample(asked, (request_id, index))

    def check_sample(self, asked: Asked, key: tuple[str, int]) -> None:
        finished, tokens, expected = self.client.finished[key], self.client.tokens[key], asked.expected()
        assert tokens == expected[: len(tokens)], "not the tokens of an undisturbed run"
        scores = [prompt_logprob(asked.prompt, position) for position in range(1, len(asked.prompt))]
        told = self.client.prompt_logprobs[key[0]]
        assert told == (scores[: len(told)] if asked.is_scored else []), "not the scores of an undisturbed run"
        assert not asked.is_scored or not tokens or told == scores, "the answer came before the prompt's scores"
        if key in self.stopped_at:
            assert (finished.reason, finished.usage.num_output_tokens) == (FinishReason.STOP, self.stopped_at[key])
        elif finished.reason is FinishReason.ABORT:
            assert key[0] in self.left
        elif finished.reason is FinishReason.STOP:
            assert tokens == expected and tokens[-1] == EOS
        else:
            # There may be fewer tokens only if the whole pool could not hold more.
            full = len(asked.prompt) + len(tokens) >= self.limits["num_pages"] * 4
            assert tokens == expected or full


class SeveralTokensMachine(SchedulerMachine):
    max_new_tokens = 4


TestSchedulerMachine = SchedulerMachine.TestCase
TestSeveralTokensMachine = SeveralTokensMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSeveralTokensMachine.settings = TestSchedulerMachine.settings
