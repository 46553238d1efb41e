"""The choice of sequences that can move from a leaving worker to other workers now. A pure function: nothing is moved here.

A move is a preemption: the sequence waits with its tokens, and another worker computes again what its own cache does not have. The
tokens are the same on every worker with the same numerics id. A sequence that no other worker can take continues where it is.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from scheduler.steps.sequence import Sequence
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase


@dataclass(slots=True)
class _Room:
    """The room of a worker for further sequences."""

    num_sequences: int
    num_pages: int

    def reserve(self, sequence: Sequence) -> bool:
        if self.num_sequences < 1 or self.num_pages < sequence.num_pages:
            return False
        self.num_sequences -= 1
        self.num_pages -= sequence.num_pages
        return True


def movable(leaving: AttachedWorker, workers: Iterable[AttachedWorker]) -> Seq[Sequence]:
    """Return the leaving worker's sequences for which the other workers have room in total, the oldest first.

    If workers with the same numerics id exist, only those count, since a sequence may get different tokens on any other worker.
    """
    info = leaving.info
    others = [each for each in workers if each.phase is WorkerPhase.SERVING and each.info.model == info.model]
    same = [each for each in others if each.info.numerics_id == info.numerics_id]
    rooms = [_room_of(each) for each in same or others]
    oldest_first = sorted(leaving.running, key=lambda sequence: sequence.order)
    return [sequence for sequence in oldest_first if any(room.reserve(sequence) for room in rooms)]


def _room_of(worker: AttachedWorker) -> _Room:
    limits = worker.step_limits
    watermark = limits.watermark_pages if worker.running else 0
    return _Room(limits.max_step_sequences - len(worker.running), worker.pool.num_available - watermark)
