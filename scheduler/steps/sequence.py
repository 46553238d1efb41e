"""A sequence: the token ids of one sample, and how far they have been computed.

There is no prefill or decode phase. A sequence has a length and a number of computed tokens, and a step lets the second catch
up with the first; the step that reaches the length samples new tokens: it promises at least one and at most some number, and its
result says how many they are. With steps in flight a sequence has therefore a least and a most length. Pages are granted, and
computed tokens counted, for the most; each result settles the difference.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from kvcache.block_hash import BlockHash, hash_block
from kvcache.page_pool import PageId
from pagoda.wire.sampling import SamplingParams
from scheduler.steps.computation import Computation
from scheduler.steps.sequence_records import Deaths, History, QueuePlace

MAX_SCORED_TOKENS = 256


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Sequence:
    """One sample of a request, owned by the scheduler loop: what it is, its tokens, and a record for each part that writes one."""

    # ---- what it is

    sequence_id: Final[int]
    request_id: Final[str]
    sample_index: Final[int]
    model: Final[str]
    num_prompt_tokens: Final[int]
    sampling: Final[SamplingParams]
    max_length: Final[int]
    """Prompt and output together may not be longer than this."""
    priority: Final[int]
    arrival: Final[int]
    """Original order of arrival; kept across preemptions."""
    page_size: Final[int]
    tenant: Final[str] = ""
    group: Final[str] = ""
    """Of all sequences that one call of a client asked for."""
    leader: "Final[Sequence | None]" = None
    """The sample of the same request whose prompt is scored for this one too; None where this one's is, or none is wanted."""

    # ---- its tokens

    token_ids: list[int]
    """Prompt and generated tokens that are known."""
    block_hashes: list[BlockHash]
    """The root, then one hash per full block of known tokens."""
    num_scored: int = 1
    """Leading prompt tokens whose log-probabilities were told, where they are wanted; the first has none."""
    traceparent: str = ""
    """The trace that its steps belong to; empty unless it is traced."""

    # ---- what becomes of it

    history: History
    queue_place: QueuePlace = field(default_factory=QueuePlace)
    computation: Computation = field(default_factory=Computation)
    deaths: Deaths = field(default_factory=Deaths)
    _status: SequenceStatus = field(default=SequenceStatus.WAITING, init=False)

    @property
    def status(self) -> SequenceStatus:
        """Changed by `start_running`, `stop_running` and `mark_ended` alone."""
        return self._status

    def start_running(self, worker_id: str, numerics_id: str, cached_pages: Seq[PageId]) -> None:
        """Go from waiting to running, as a worker's state admits it."""
        self._change_status(SequenceStatus.WAITING, SequenceStatus.RUNNING)
        self.queue_place.num_passed_tokens = 0
        self.computation.begin_attempt(worker_id, numerics_id, cached_pages, self.page_size)

    def stop_running(self) -> list[PageId]:
        """Go from running to waiting, tokens kept. Return the pages that it held."""
        self._change_status(SequenceStatus.RUNNING, SequenceStatus.WAITING)
        return self.computation.give_up()

    def mark_ended(self) -> None:
        """Go from waiting to ended: it is in no queue and on no worker any more."""
        self._change_status(SequenceStatus.WAITING, SequenceStatus.ENDED)

    def _change_status(self, old: SequenceStatus, new: SequenceStatus) -> None:
        assert self._status is old, f"sequence {self.sequence_id} is {self._status.name}, not {old.name}"
        self._status = new

    # ---- how long it is, and how far it is computed

    @property
    def order(self) -> tuple[int, int]:
        """Lower goes first: priority, then original arrival. The last in this order is preempted first."""
        return (self.priority, self.arrival)

    @property
    def length(self) -> int:
        """With all that steps in flight may bring."""
        return len(self.token_ids) + self.computation.num_sampling

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Tokens that a step could compute now; 0 where the steps in flight may bring its last token."""
        computation = self.computation
        length = len(self.token_ids) + computation.num_sampling
        return length - computation.num_computed if length < self.max_length else 0

    @property
    def is_to_be_scored(self) -> bool:
        return self.sampling.num_prompt_logprobs is not None and self.num_scored < self.num_prompt_tokens

    @property
    def max_chunk_tokens(self) -> int:
        """A scored token costs a row of logits as wide as the vocabulary, so a step has few of them."""
        return MAX_SCORED_TOKENS if self.is_to_be_scored else self.length

    @property
    def shareable_blocks(self) -> Seq[BlockHash]:
        """Hashes of the full blocks that may come from the cache: at least one token is left to compute, or to be scored all."""
        if self.is_to_be_scored:
            return ()
        return self.block_hashes[1 : 1 + (self.length - 1) // self.page_size]

    @property
    def waits_for_scores(self) -> bool:
        """No sample of a request begins before the scores of their prompt are complete: they are told before any token."""
        leader = self.leader
        return leader is not None and leader.is_to_be_scored and leader.status is not SequenceStatus.ENDED

    @property
    def is_passed_enough(self) -> bool:
        """No more sequences may be admitted before it: it would wait for ever where short ones always come."""
        return self.queue_place.num_passed_tokens > self.length

    @property
    def has_moved(self) -> bool:
        """Its admission is not where it ran before: elsewhere, or at a worker that was lost and is back under its name."""
        return self.history.has_lost_worker or self.history.admitted_before not in (None, self.computation.worker_id)

    @property
    def num_pages(self) -> int:
        """To hold its whole length."""
        return -(-self.length // self.page_size)

    def num_new_pages(self, num_computed: int) -> int:
        """Pages to append to the block table before the first `num_computed` tokens can be held."""
        return max(0, -(-num_computed // self.page_size) - len(self.computation.block_table))

    def append_tokens(self, token_ids: Seq[int], max_new_tokens: int) -> None:
        """Take in the tokens that a step brought, of so many that it had promised."""
        self.token_ids.extend(token_ids)
        self.computation.settle_chunk(len(token_ids), max_new_tokens)
        if self.deaths.count:
            self.deaths.forget_before(len(self.token_ids))
        if len(self.block_hashes) * self.page_size <= len(self.token_ids):
            self.hash_full_blocks()

    def hash_full_blocks(self) -> None:
        """Name the blocks that have become full of known tokens."""
        hashes, size = self.block_hashes, self.page_size
        while (end := len(hashes) * size) <= len(self.token_ids):
            hashes.append(hash_block(hashes[-1], self.token_ids[end - size : end]))

    def take_sealable_pages(self) -> list[tuple[PageId, BlockHash]]:
        """Return the pages whose block is full, known, and filled by a step that has been sent; mark them as sealed."""
        # With a step in flight all known tokens are computed, and without one `num_computed` is exact.
        computation = self.computation
        first, end = computation.num_sealed, len(self.block_hashes) - 1
        if end > first:
            end = min(end, computation.num_computed // self.page_size)
        if end <= first:
            return []
        computation.num_sealed = end
        return [(computation.block_table[i], self.block_hashes[i + 1]) for i in range(first, end)]
