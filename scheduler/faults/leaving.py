"""Which sequences of a worker that wants to leave can go on elsewhere now. A pure function: nothing is moved here.

A move is a preemption that makes no room: the sequence waits with its tokens, another worker computes it again as far as its own
cache does not have it, and tokens do not depend on where that is. What nobody else can take goes on where it is.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from scheduler.steps.sequence import Sequence
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase


@dataclass(slots=True)
class _Room:
    """What a worker could still admit."""

    num_sequences: int
    num_pages: int

    def reserve(self, sequence: Sequence) -> bool:
        if self.num_sequences < 1 or self.num_pages < sequence.num_pages:
            return False
        self.num_sequences -= 1
        self.num_pages -= sequence.num_pages
        return True


def movable(leaving: AttachedWorker, workers: Iterable[AttachedWorker]) -> Seq[Sequence]:
    """Those of its sequences, the oldest first, for which the others have room, as if all moved at once.

    Where some give the same bits, only those count: on another a stream goes on validly, but not with the tokens it would have had.
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
