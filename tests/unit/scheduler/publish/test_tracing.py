"""Tests of the spans of a sequence."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.trace import StatusCode

from pagoda.wire.inference_request import InferenceRequest
from scheduler.loop import SchedulerLoop
from scheduler.publish.tracing import SequenceTracing
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info
from tests.fakes.span_recorder import SpanRecorder, attributes_of, events_of, traceparent_of
from tests.unit.scheduler.test_loop import request


@pytest.fixture(autouse=True)
def no_span_is_used_after_its_end(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that the SDK had no reason to warn: it does if an ended span is ended again or changed."""
    yield
    assert not [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]


class TracedSystem:
    def __init__(self) -> None:
        self.recorder = SpanRecorder()
        self.clock = FakeClock()
        self.client = RecordingClient()
        self.loop = SchedulerLoop(self.clock, sequences=SequenceTracing(self.recorder.tracer))
        self.traceparents: list[str] = []
        """Trace contexts of the steps that ran."""

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
        assert all(span.end_time is not None for span in self.recorder.spans)


def test_a_sequence_goes_through_its_stages_and_its_steps_name_it() -> None:
    system = TracedSystem()
    attached = system.attach()
    system.submit(request(max_tokens=3))
    system.run(*attached)
    (sequence,) = system.recorder.named("sequence")
    assert list(system.recorder.children_of(sequence)) == ["queue", "prefill", "decode"]
    assert attributes_of(sequence)["pagoda.finish_reason"] == "length"
    assert set(system.traceparents[:3]) == {traceparent_of(sequence)}


def test_a_sequence_says_where_in_the_queue_it_begins() -> None:
    system = TracedSystem()
    system.attach(max_step_sequences=1)
    for request_id, tenant in (("runs", "a"), ("next", "a"), ("other", "b"), ("behind", "a")):
        system.submit(replace(request(request_id), tenant=tenant))
    queued = [dict(span.events[0].attributes or {}) for span in system.recorder.named("sequence")]
    assert queued == [
        {"pagoda.queue_position": position, "pagoda.num_waiting": num_waiting}
        for position, num_waiting in ((1, 1), (1, 1), (1, 2), (2, 3))
    ]


def test_a_preempted_sequence_says_so_and_queues_again() -> None:
    system = TracedSystem()
    attached = system.attach(num_pages=6)
    system.submit(request("old", prompt=8, max_tokens=12))
    system.submit(request("new", prompt=8, max_tokens=12, first_token=20))
    system.run(*attached)
    old, new = system.recorder.named("sequence")
    assert "preempted" in events_of(new) and "preempted" not in events_of(old)
    assert list(system.recorder.children_of(new))[:4] == ["queue", "prefill", "decode", "queue"]
    assert attributes_of(new)["pagoda.num_preemptions"] == events_of(new).count("preempted")


def test_two_that_decode_together_take_turns_at_the_steps() -> None:
    system = TracedSystem()
    attached = system.attach()
    system.submit(request("a", max_tokens=8))
    system.submit(request("b", max_tokens=8, first_token=20))
    system.run(*attached)
    contexts = [traceparent_of(span) for span in system.recorder.named("sequence")]
    assert min(system.traceparents.count(context) for context in contexts) >= 2


@pytest.mark.parametrize("next_worker", ["w1", "w0"])
def test_a_lost_worker_and_the_move_to_another_or_to_its_successor_are_events(next_worker: str) -> None:
    system = TracedSystem()
    worker, fake = system.attach("w0")
    system.submit(request(max_tokens=8))
    system.run_step(worker, fake)
    system.loop.attachments.detach_worker(worker)
    system.run(*system.attach(next_worker))
    (sequence,) = system.recorder.named("sequence")
    assert events_of(sequence) == ["queued", "worker lost", "moved"]
    assert attributes_of(sequence)["pagoda.worker_id"] == next_worker


def test_a_request_that_fails_ends_its_spans_with_the_reason() -> None:
    system = TracedSystem()
    worker, _ = system.attach()
    system.submit(request())
    system.loop.attachments.detach_worker(worker)
    system.clock.advance(60.0)
    (sequence,) = system.recorder.named("sequence")
    assert attributes_of(sequence)["error.type"] == "UNAVAILABLE"
    assert sequence.status.status_code is StatusCode.ERROR and sequence.status.description
    assert all(span.end_time is not None for span in system.recorder.spans)
