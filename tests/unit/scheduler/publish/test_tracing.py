"""What the spans of a sequence tell of its fate, with a tracer that keeps them."""

from dataclasses import replace

import pytest

from pagoda.wire.inference_request import InferenceRequest
from scheduler.loop import SchedulerLoop
from scheduler.publish.tracing import SequenceTracing
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info
from tests.fakes.tracer import RecordingTracer
from tests.unit.scheduler.test_loop import request


class TracedSystem:
    def __init__(self) -> None:
        self.tracer = RecordingTracer()
        self.clock = FakeClock()
        self.client = RecordingClient()
        self.loop = SchedulerLoop(self.clock, sequences=SequenceTracing(self.tracer))
        self.traceparents: list[str] = []
        """Of the steps that were run."""

    def attach(self, worker_id: str = "w0", **limits: int) -> tuple[AttachedWorker, PlanWorker]:
        fake = PlanWorker(worker_info(worker_id, **limits))
        worker = self.loop.attachments.attach_worker(fake.info, fake)
        self.clock.run_soon()
        return worker, fake

    def submit(self, asked: InferenceRequest) -> None:
        self.loop.requests.submit_request(asked, self.client)
        self.clock.run_soon()

    def run_step(self, worker: AttachedWorker, fake: PlanWorker) -> None:
        self.traceparents.append(fake.queue[0][0].traceparent)
        self.loop.apply_result(worker, fake.run_step())
        self.clock.run_soon()

    def run(self, worker: AttachedWorker, fake: PlanWorker) -> None:
        while fake.queue:
            self.run_step(worker, fake)
        assert all(span.num_ends == 1 for span in self.tracer.spans)


def test_a_sequence_goes_through_its_stages_and_its_steps_name_it() -> None:
    system = TracedSystem()
    attached = system.attach()
    system.submit(request(max_tokens=3))
    system.run(*attached)
    (sequence,) = system.tracer.named("sequence")
    assert list(system.tracer.within(sequence)) == ["queue", "prefill", "decode"]
    assert sequence.attributes["pagoda.finish_reason"] == "length"
    assert set(system.traceparents[:3]) == {sequence.context.traceparent}


def test_a_sequence_says_where_in_the_queue_it_begins() -> None:
    system = TracedSystem()
    system.attach(max_step_sequences=1)
    for request_id, tenant in (("runs", "a"), ("next", "a"), ("other", "b"), ("behind", "a")):
        system.submit(replace(request(request_id), tenant=tenant))
    said = [span.event_attributes["queued"] for span in system.tracer.named("sequence")]
    assert [(each["pagoda.queue_position"], each["pagoda.num_waiting"]) for each in said] == [
        (1, 1),
        (1, 1),
        (1, 2),
        (2, 3),
    ]


def test_a_preempted_sequence_says_so_and_queues_again() -> None:
    system = TracedSystem()
    attached = system.attach(num_pages=6)
    system.submit(request("old", prompt=8, max_tokens=12))
    system.submit(request("new", prompt=8, max_tokens=12, first_token=20))
    system.run(*attached)
    old, new = system.tracer.named("sequence")
    assert "preempted" in new.events and "preempted" not in old.events
    assert list(system.tracer.within(new))[:4] == ["queue", "prefill", "decode", "queue"]
    assert new.attributes["pagoda.num_preemptions"] == new.events.count("preempted")


def test_two_that_decode_together_take_turns_at_the_steps() -> None:
    system = TracedSystem()
    attached = system.attach()
    system.submit(request("a", max_tokens=8))
    system.submit(request("b", max_tokens=8, first_token=20))
    system.run(*attached)
    contexts = [span.context.traceparent for span in system.tracer.named("sequence")]
    assert min(system.traceparents.count(context) for context in contexts) >= 2


@pytest.mark.parametrize("next_worker", ["w1", "w0"])
def test_a_lost_worker_and_the_move_to_another_or_to_its_successor_are_events(next_worker: str) -> None:
    system = TracedSystem()
    worker, fake = system.attach("w0")
    system.submit(request(max_tokens=8))
    system.run_step(worker, fake)
    system.loop.attachments.detach_worker(worker)
    system.run(*system.attach(next_worker))
    (sequence,) = system.tracer.named("sequence")
    assert sequence.events == ["queued", "worker lost", "moved"]
    assert sequence.attributes["pagoda.worker_id"] == next_worker


def test_a_request_that_fails_ends_its_spans_with_the_reason() -> None:
    system = TracedSystem()
    worker, _ = system.attach()
    system.submit(request())
    system.loop.attachments.detach_worker(worker)
    system.clock.advance(60.0)
    (sequence,) = system.tracer.named("sequence")
    assert sequence.attributes["error.type"] == "UNAVAILABLE"
    assert sequence.failure and all(span.num_ends == 1 for span in system.tracer.spans)
