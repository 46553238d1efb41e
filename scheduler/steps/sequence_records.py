"""The records of a sequence beside its tokens and their computation: one for each part of the scheduler that writes it."""

from dataclasses import dataclass

# One death does not show which sequence caused it, since all running sequences were affected.
NUM_DEATHS_OF_A_SUSPECT = 2


@dataclass(slots=True, eq=False, kw_only=True)
class QueuePlace:
    """The place of a sequence in the queue. The queue writes `turn`; each step that admits others writes the rest."""

    turn: int = 0
    """Turn among the sequences of its tenant: the tokens due before it, as fair_queue.py counts them."""
    num_passed_tokens: int = 0
    """Tokens of the sequences that were admitted while this one was the first that was short of pages."""


@dataclass(slots=True, eq=False, kw_only=True)
class History:
    """The past of a sequence, written by lifecycle.py, for its client, the traces and the counters."""

    arrival_s: float
    first_step_s: float | None = None
    first_token_s: float | None = None
    num_cached_tokens: int | None = None
    """Tokens found in the cache at the first admission."""
    num_preemptions: int = 0
    admitted_before: str | None = None
    """Worker of its last admission, from which a move to another one is recognised."""
    has_lost_worker: bool = False
    """True if its worker was lost since that admission."""


@dataclass(slots=True, eq=False, kw_only=True)
class Deaths:
    """The deaths of workers, in a row, with steps of the sequence in flight (faults/suspects.py)."""

    count: int = 0
    """Number of deaths since the sequence last got further than before."""
    length: int = 0
    """Length that the sequence may have had at the last of these deaths."""

    @property
    def makes_suspect(self) -> bool:
        """True if the sequence may be the one that kills workers."""
        return self.count >= NUM_DEATHS_OF_A_SUSPECT

    def record_death(self, length: int) -> None:
        """Count a worker's death, at which the sequence may have had this length."""
        self.count += 1
        self.length = length

    def forget_before(self, length: int) -> None:
        """Forget the deaths if the sequence is longer now."""
        if length > self.length:
            self.count = 0
