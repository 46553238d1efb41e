"""Tests that only the owners write the shared state. The types forbid it: mypy reports each unneeded `type: ignore` below."""

import pytest

from scheduler.attachments import WorkerRegistry
from scheduler.loop import SchedulerLoop
from scheduler.queue.fair_queue import FairQueue, WaitingSequences
from scheduler.steps.step_decision import PrefillLimits
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info


def test_only_its_owner_writes_the_registry() -> None:
    loop = SchedulerLoop(FakeClock())
    link = PlanWorker(worker_info())
    worker = loop.attachments.attach_worker(link.info, link)
    with pytest.raises(TypeError):
        loop.workers["other"] = worker  # type: ignore[index]
    with pytest.raises(TypeError):
        del loop.context.workers[link.info.worker_id]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        loop.context.workers = {}  # type: ignore[misc]
    assert list(loop.workers.values()) == [worker]


def test_only_its_owner_writes_the_queue() -> None:
    waiting: WaitingSequences = FairQueue()
    assert callable(waiting.enqueue_sequence)  # type: ignore[attr-defined]
    assert not hasattr(WaitingSequences, "enqueue_sequence") and not hasattr(WaitingSequences, "dequeue_sequence")


def test_a_worker_that_was_replaced_is_not_removed_for_its_successor() -> None:
    registry = WorkerRegistry(max_lease_steps=1, prefill_limits=PrefillLimits())
    link = PlanWorker(worker_info())
    old, new = (registry.add_worker(link.info, link, ()) for _ in range(2))
    assert not registry.remove_worker(old)
    assert registry.workers == {link.info.worker_id: new} and new.session_id > old.session_id
    assert registry.remove_worker(new) and not registry.workers
