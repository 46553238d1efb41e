"""A sequence: the token ids of one sample, and how far they have been computed.

There is no prefill or decode phase. A sequence has a length and a number of computed tokens, and steps raise the second number
to the first. The step that reaches the length samples new tokens: at least one, at most a promised number. Its result says how
many. So a sequence with steps in flight has a minimum and a maximum length. Pages are granted and computed tokens are counted for
the maximum; each result settles the difference.
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
    """One sample of a request, with its tokens, and with one record for each part of the scheduler that writes to it."""

    # ---- identity

    sequence_id: Final[int]
    request_id: Final[str]
    sample_index: Final[int]
    model: Final[str]
    num_prompt_tokens: Final[int]
    sampling: Final[SamplingParams]
    max_length: Final[int]
    """Maximum length of prompt and output together."""
    priority: Final[int]
    arrival: Final[int]
    """Original order of arrival; kept across preemptions."""
    page_size: Final[int]
    tenant: Final[str] = ""
    group: Final[str] = ""
    """Name that is shared by all sequences of one call of a client."""
    leader: "Final[Sequence | None]" = None
    """The sample of the same request that scores their prompt for this one too. None if this one scores it, or none does."""

    # ---- tokens

    token_ids: list[int]
    """Known tokens of the prompt and the output."""
    block_hashes: list[BlockHash]
    """The root, then one hash per full block of known tokens."""
    num_scored: int = 1
    """Leading prompt tokens whose log-probabilities were delivered, if requested. The first token has none."""
    traceparent: str = ""
    """Trace context of its steps; empty unless it is traced."""

    # ---- state

    history: History
    queue_place: QueuePlace = field(default_factory=QueuePlace)
    computation: Computation = field(default_factory=Computation)
    deaths: Deaths = field(default_factory=Deaths)
    _status: SequenceStatus = field(default=SequenceStatus.WAITING, init=False)

    @property
    def status(self) -> SequenceStatus:
        """State of the sequence. Only `start_running`, `stop_running` and `mark_ended` change it."""
        return self._status

    def start_running(self, worker_id: str, numerics_id: str, cached_pages: Seq[PageId]) -> None:
        """Change from waiting to running, because a worker admits the sequence."""
        self._change_status(SequenceStatus.WAITING, SequenceStatus.RUNNING)
        self.queue_place.num_passed_tokens = 0
        self.computation.begin_attempt(worker_id, numerics_id, cached_pages, self.page_size)

    def stop_running(self) -> list[PageId]:
        """Change from running to waiting, and keep the tokens. Return the pages that it held."""
        self._change_status(SequenceStatus.RUNNING, SequenceStatus.WAITING)
        return self.computation.give_up()

    def mark_ended(self) -> None:
        """Change from waiting to ended. The sequence is in no queue and on no worker any more."""
        self._change_status(SequenceStatus.WAITING, SequenceStatus.ENDED)

    def _change_status(self, old: SequenceStatus, new: SequenceStatus) -> None:
        assert self._status is old, f"sequence {self.sequence_id} is {self._status.name}, not {old.name}"
        self._status = new

    # ---- length and progress

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: priority, then original arrival. Lower goes first, and the highest is preempted first."""
        return (self.priority, self.arrival)

    @property
    def length(self) -> int:
        """Number of tokens, including the most that steps in flight may return."""
        return len(self.token_ids) + self.computation.num_sampling

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Number of tokens that a step could compute now. 0 if the steps in flight may return the last token."""
        computation = self.computation
        length = len(self.token_ids) + computation.num_sampling
        return length - computation.num_computed if length < self.max_length else 0

    @property
    def is_constrained(self) -> bool:
        return self.sampling.constraint is not None

    @property
    def is_to_be_scored(self) -> bool:
        return self.sampling.num_prompt_logprobs is not None and self.num_scored < self.num_prompt_tokens

    @property
    def max_chunk_tokens(self) -> int:
        """Maximum number of tokens in a step. It is low for a scored prompt, since each token costs a row of logits."""
        return MAX_SCORED_TOKENS if self.is_to_be_scored else self.length

    @property
    def shareable_blocks(self) -> Seq[BlockHash]:
        """Hashes of the full blocks that may come from the cache. At least one token must be computed, and all if it is scored."""
        if self.is_to_be_scored:
            return ()
        return self.block_hashes[1 : 1 + (self.length - 1) // self.page_size]

    @property
    def waits_for_scores(self) -> bool:
        """True if the sequence must wait until the scores of its prompt are complete, since they are delivered before any token."""
        leader = self.leader
        return leader is not None and leader.is_to_be_scored and leader.status is not SequenceStatus.ENDED

    @property
    def is_passed_enough(self) -> bool:
        """True if no more sequences may be admitted before this one, so that a stream of short ones does not starve it."""
        return self.queue_place.num_passed_tokens > self.length

    @property
    def has_moved(self) -> bool:
        """True if it was admitted to another worker than before, or to a restarted worker with the same id."""
        return self.history.has_lost_worker or self.history.admitted_before not in (None, self.computation.worker_id)

    @property
    def num_pages(self) -> int:
        """Number of pages that hold its whole length."""
        return -(-self.length // self.page_size)

    def num_new_pages(self, num_computed: int) -> int:
        """Return the number of pages to append to the block table so that it holds the first `num_computed` tokens."""
        return max(0, -(-num_computed // self.page_size) - len(self.computation.block_table))

    def append_tokens(self, token_ids: Seq[int], max_new_tokens: int) -> None:
        """Append the tokens that a step returned, of at most `max_new_tokens`."""
        self.token_ids.extend(token_ids)
        self.computation.settle_chunk(len(token_ids), max_new_tokens)
        if self.deaths.count:
            self.deaths.forget_before(len(self.token_ids))
        if len(self.block_hashes) * self.page_size <= len(self.token_ids):
            self.hash_full_blocks()

    def hash_full_blocks(self) -> None:
        """Hash the blocks that have become full of known tokens."""
        hashes, size = self.block_hashes, self.page_size
        while (end := len(hashes) * size) <= len(self.token_ids):
            hashes.append(hash_block(hashes[-1], self.token_ids[end - size : end]))

    def take_sealable_pages(self) -> list[tuple[PageId, BlockHash]]:
        """Return the pages whose block is full, known, and filled by a step that was sent. Count them as sealed."""
        # If a step is in flight, all known tokens are computed; otherwise `num_computed` is exact.
        computation = self.computation
        first, end = computation.num_sealed, len(self.block_hashes) - 1
        if end > first:
            end = min(end, computation.num_computed // self.page_size)
        if end <= first:
            return []
        computation.num_sealed = end
        return [(computation.block_table[i], self.block_hashes[i + 1]) for i in range(first, end)]
