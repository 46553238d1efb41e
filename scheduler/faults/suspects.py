"""The search for sequences that kill workers, without harm to the sequences that ran beside them.

Any sequence with a step in flight when a worker dies may have caused the death. After a second death the sequence is a suspect: it
runs alone on one worker of its model, the quarantine worker, while the other workers run all other sequences. A suspect is cleared
when it gets further than at its last death, which takes a few tokens. It is convicted if its worker dies again, since no other
sequence can have caused that. Several suspects run one after another. Other sequences on the quarantine worker are preempted, so
that a suspect does not wait for a long answer to end.
"""

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Seq

from scheduler.steps.sequence import Sequence, SequenceStatus
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase


class Suspects:
    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def record_death(self, worker: AttachedWorker) -> Sequence | None:
        """Record a worker's death, before its sequences leave it. Return the sequence that it convicts, if any."""
        in_flight = _in_flight(worker)
        convicted = in_flight[0] if len(in_flight) == 1 and in_flight[0].deaths.makes_suspect else None
        for sequence in in_flight:
            sequence.deaths.record_death(worker.steps.reach(sequence))
            if sequence.deaths.makes_suspect and sequence not in self._sequences:
                self._sequences.append(sequence)
        return convicted

    def quarantine_workers(self, workers: Collection[AttachedWorker]) -> dict[str, AttachedWorker]:
        """Return the quarantine worker of each model with suspects: the one that runs a suspect, or will run the next one."""
        self._sequences = [
            each for each in self._sequences if each.deaths.makes_suspect and each.status is not SequenceStatus.ENDED
        ]
        if not self._sequences:
            return {}
        models = {sequence.model for sequence in self._sequences}
        of_model = {model: [each for each in workers if each.info.model == model] for model in models}
        chosen = {model: _quarantine_worker(those) for model, those in of_model.items()}
        return {model: worker for model, worker in chosen.items() if worker is not None}


def making_way(quarantine: AttachedWorker) -> Seq[Sequence]:
    """Return the sequences that must not run beside a suspect."""
    return [sequence for sequence in quarantine.running if not sequence.deaths.makes_suspect]


def next_on(quarantine: AttachedWorker, waiting: Iterable[Sequence]) -> Sequence | None:
    """Return the first suspect among `waiting` if the quarantine worker is idle, so that it can run there alone."""
    if not quarantine.is_idle:
        return None
    return next((sequence for sequence in waiting if sequence.deaths.makes_suspect), None)


def _in_flight(worker: AttachedWorker) -> list[Sequence]:
    """Return the sequences in the worker's steps in flight that have not run on another worker since."""
    computing = {each.sequence_id: each for step in worker.steps.unanswered for each in step.computing}
    return [each for each in computing.values() if each in worker.running or each.status is SequenceStatus.WAITING]


def _quarantine_worker(workers: Seq[AttachedWorker]) -> AttachedWorker | None:
    """Return the worker that runs a suspect, else the one with the fewest sequences to preempt."""
    running = [worker for worker in workers if any(sequence.deaths.makes_suspect for sequence in worker.running)]
    serving = [worker for worker in workers if worker.phase is WorkerPhase.SERVING]
    order = running or sorted(serving, key=lambda worker: (len(worker.running), len(worker.steps.unanswered)))
    return next(iter(order), None)
