"""The progress of a sequence's computation on its worker. Only worker_state.py and steps_in_flight.py change it."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from kvcache.page_pool import PageId


@dataclass(slots=True, eq=False, kw_only=True)
class Computation:
    """The computation of one sequence in its present attempt. Each admission begins a new attempt."""

    attempt: int = 1
    """Number of the attempt. Results of an older attempt do not count."""
    worker_id: str | None = None
    """The worker on which the sequence runs, or ran last."""
    numerics_id: str | None = None
    """Numerics id of that worker. Other workers with the same id compute the same tokens."""
    block_table: list[PageId] = field(default_factory=list)
    num_sealed: int = 0
    """Leading pages of the block table whose full block is offered to other sequences."""
    num_computed: int = 0
    """Tokens whose computation is planned, if all steps in flight return their maximum."""
    num_sampling: int = 0
    """Maximum number of new tokens that the steps in flight return."""
    num_uncertain: int = 0
    """Part of `num_sampling` that may not come, since a step may return only one token. That many fewer tokens may be computed."""

    def begin_attempt(self, worker_id: str, numerics_id: str, cached_pages: Seq[PageId], page_size: int) -> None:
        """Begin an attempt on a worker whose `cached_pages` hold the first blocks already."""
        self.worker_id, self.numerics_id = worker_id, numerics_id
        self.block_table = list(cached_pages)
        self.num_sealed = len(cached_pages)
        self.num_computed = len(cached_pages) * page_size

    def begin_chunk(self, num_tokens: int, max_new_tokens: int) -> None:
        """Count the chunk of a step that is sent. The step computes all of its new tokens but the last."""
        self.num_computed += num_tokens
        self.num_sampling += max_new_tokens
        if max_new_tokens > 1:
            self.num_computed += max_new_tokens - 1
            self.num_uncertain += max_new_tokens - 1

    def settle_chunk(self, num_new_tokens: int, max_new_tokens: int) -> None:
        """Count the result of a step that returned `num_new_tokens` of at most `max_new_tokens`."""
        self.num_sampling -= max_new_tokens
        if max_new_tokens > 1:
            self.num_uncertain -= max_new_tokens - 1
            self.num_computed -= max_new_tokens - num_new_tokens

    def stop_at(self, num_tokens: int) -> None:
        """Count at most `num_tokens` tokens as computed, because the next token ended the sequence."""
        self.num_computed = min(self.num_computed, num_tokens)

    def give_up(self) -> list[PageId]:
        """End the attempt: nothing counts as computed. Return the pages that it held."""
        pages, self.block_table = self.block_table, []
        self.num_computed = self.num_sampling = self.num_uncertain = self.num_sealed = 0
        self.attempt += 1
        return pages
