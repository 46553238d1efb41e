"""What is remembered of a sequence beside its tokens and their computation, in one record for each part that writes it."""

from dataclasses import dataclass

# One death says nothing about who caused it: all that ran were there.
NUM_DEATHS_OF_A_SUSPECT = 2


@dataclass(slots=True, eq=False, kw_only=True)
class QueuePlace:
    """A sequence's place among those that wait. `turn` is written by the queue, the rest with each step that admits others."""

    turn: int = 0
    """In its tenant's line: how many tokens were due before it, as fair_queue.py counts them."""
    num_passed_tokens: int = 0
    """Tokens of the sequences that were admitted while it was the first for which too few pages were free."""


@dataclass(slots=True, eq=False, kw_only=True)
class History:
    """What a sequence has been through, written by its lifecycle: for its client, the traces and the counters."""

    arrival_s: float
    first_step_s: float | None = None
    first_token_s: float | None = None
    num_cached_tokens: int | None = None
    """Found in the cache at the first admission."""
    num_preemptions: int = 0
    admitted_before: str | None = None
    """The worker of its last admission, to tell the client when it continues elsewhere."""
    has_lost_worker: bool = False
    """Since that admission."""


@dataclass(slots=True, eq=False, kw_only=True)
class Deaths:
    """The workers in a row that died with steps of a sequence in flight (faults/suspects.py)."""

    count: int = 0
    """Since the sequence last got further than it was at one of them."""
    length: int = 0
    """As far as the last of those workers may have come with it."""

    @property
    def makes_suspect(self) -> bool:
        """Whether the sequence may be what kills workers."""
        return self.count >= NUM_DEATHS_OF_A_SUSPECT

    def record_death(self, length: int) -> None:
        """Count a worker that died, and whose steps may have made the sequence so long."""
        self.count += 1
        self.length = length

    def forget_before(self, length: int) -> None:
        """Forget them where the sequence is longer now."""
        if length > self.length:
            self.count = 0
