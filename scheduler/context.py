"""The state that all parts of the scheduler's loop share: the clock, the workers, the queue and the listeners."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scheduler.clock import Clock
from scheduler.counters import Counters
from scheduler.listeners import CacheListener, SequenceListener
from scheduler.queue.fair_queue import WaitingSequences
from scheduler.steps.worker_state import AttachedWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerContext:
    clock: Clock
    workers: Mapping[str, AttachedWorker]
    """The workers that are attached with a model, by id. Only `Attachments` adds and removes them."""
    waiting: WaitingSequences
    """The sequences that wait. Only `Lifecycle` adds and removes them."""
    wake: Callable[[], object]
    """Callback that schedules the planning of the next steps."""
    sequence_listener: SequenceListener
    cache_listener: CacheListener
    counters: Counters
