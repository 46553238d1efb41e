"""How far a sequence is computed on its worker. The worker's state (worker_state.py, steps_in_flight.py) alone changes it."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from kvcache.page_pool import PageId


@dataclass(slots=True, eq=False, kw_only=True)
class Computation:
    """The computation of one sequence in its present attempt: begun anew with each admission."""

    attempt: int = 1
    """Results of an older one do not count."""
    worker_id: str | None = None
    """Where the sequence runs, or ran last."""
    numerics_id: str | None = None
    """Of that worker: others that have it give the same tokens."""
    block_table: list[PageId] = field(default_factory=list)
    num_sealed: int = 0
    """Leading pages of the block table whose block has been offered to others."""
    num_computed: int = 0
    """Tokens whose computation has been planned, as many as it can be at most."""
    num_sampling: int = 0
    """New tokens that steps in flight bring at most."""
    num_uncertain: int = 0
    """Of those, the ones that may not come: each step brings one token at least. As many fewer may be computed."""

    def begin_attempt(self, worker_id: str, numerics_id: str, cached_pages: Seq[PageId], page_size: int) -> None:
        """Begin an attempt on a worker, whose pages hold the first blocks already."""
        self.worker_id, self.numerics_id = worker_id, numerics_id
        self.block_table = list(cached_pages)
        self.num_sealed = len(cached_pages)
        self.num_computed = len(cached_pages) * page_size

    def begin_chunk(self, num_tokens: int, max_new_tokens: int) -> None:
        """Count a step that is sent. Of the new tokens that it promises, it computes all but the last."""
        self.num_computed += num_tokens
        self.num_sampling += max_new_tokens
        if max_new_tokens > 1:
            self.num_computed += max_new_tokens - 1
            self.num_uncertain += max_new_tokens - 1

    def settle_chunk(self, num_new_tokens: int, max_new_tokens: int) -> None:
        """Count a step's result: so many new tokens came, of those that it had promised."""
        self.num_sampling -= max_new_tokens
        if max_new_tokens > 1:
            self.num_uncertain -= max_new_tokens - 1
            self.num_computed -= max_new_tokens - num_new_tokens

    def stop_at(self, num_tokens: int) -> None:
        """Count no more than these tokens as computed: the next one ended the sequence."""
        self.num_computed = min(self.num_computed, num_tokens)

    def give_up(self) -> list[PageId]:
        """End the attempt with nothing computed. Returns the pages that it held."""
        pages, self.block_table = self.block_table, []
        self.num_computed = self.num_sampling = self.num_uncertain = self.num_sealed = 0
        self.attempt += 1
        return pages
