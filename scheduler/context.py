"""What every part of the scheduler's loop shares: the clock, the state that all may read, and whom to tell of changes."""

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
    """By id, the workers that are attached with a model. `Attachments` alone adds and removes them."""
    waiting: WaitingSequences
    """The sequences that wait. `Lifecycle` alone adds and removes them."""
    wake: Callable[[], object]
    """Has the next steps planned soon."""
    sequence_listener: SequenceListener
    cache_listener: CacheListener
    counters: Counters
