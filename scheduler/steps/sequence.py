"""A sequence: the token ids of one sample, and how far they have been computed.

There is no prefill or decode phase. A sequence has a length and a number of computed tokens, and a step lets the second catch
up with the first; the step that reaches the length samples new tokens: it promises at least one and at most some number, and its
result says how many they are. With steps in flight a sequence has therefore a least and a most length. Pages are granted, and
computed tokens counted, for the most; each result settles the difference.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum, auto

from kvcache.block_hash import BlockHash, hash_block
from kvcache.page_pool import PageId
from pagoda.wire.sampling import SamplingParams

MAX_SCORED_TOKENS = 256
# One death says nothing about who caused it: all that ran were there.
NUM_DEATHS_OF_A_SUSPECT = 2


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Sequence:
    """One sample of a request. Owned by the scheduler loop; block table and counters are reset when it is preempted."""

    sequence_id: int
    request_id: str
    sample_index: int
    model: str
    token_ids: list[int]
    """Prompt and generated tokens that are known."""
    num_prompt_tokens: int
    sampling: SamplingParams
    max_length: int
    """Prompt and output together may not be longer than this."""
    priority: int
    arrival: int
    """Original order of arrival; kept across preemptions."""
    block_hashes: list[BlockHash]
    """The root, then one hash per full block of known tokens."""
    page_size: int

    status: SequenceStatus = SequenceStatus.WAITING
    attempt: int = 1
    num_computed: int = 0
    """Tokens whose computation has been planned in this attempt, as many as it can be at most."""
    num_sampling: int = 0
    """New tokens that steps in flight bring at most."""
    num_uncertain: int = 0
    """Of those, the ones that may not come: each step brings one token at least. As many fewer may be computed."""
    block_table: list[PageId] = field(default_factory=list)
    num_sealed: int = 0
    """Leading pages of the block table whose block has been offered to others."""

    num_scored: int = 1
    """Leading prompt tokens whose log-probabilities were told, where they are wanted; the first has none."""

    tenant: str = ""
    group: str = ""
    """Of all sequences that one call of a client asked for."""
    leader: "Sequence | None" = None
    """The sample of the same request whose prompt is scored for this one too; None where this one's is, or none is wanted."""
    turn: int = 0
    """In its tenant's line: how many tokens were due before it, as fair_queue.py counts them."""
    num_passed_tokens: int = 0
    """Of those that were admitted while it was the first for which too few pages were free."""
    traceparent: str = ""
    """The trace that its steps belong to; empty unless it is traced."""
    worker_id: str | None = None
    """Where it runs, or ran last."""
    numerics_id: str | None = None
    """Of that worker: others that have it give the same tokens."""
    admitted_before: str | None = None
    """The worker of its last admission, to tell the client when it goes on elsewhere."""
    has_lost_worker: bool = False
    """Since that admission."""
    num_cached_tokens: int | None = None
    """Found in the cache at the first admission."""
    num_preemptions: int = 0
    num_deaths: int = 0
    """Of workers that had steps of it in flight, since it last got further than it was at one."""
    length_at_death: int = 0
    """As far as the last of those workers may have come with it."""
    arrival_s: float = 0.0
    first_step_s: float | None = None
    first_token_s: float | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Lower goes first: priority, then original arrival. The last in this order is preempted first."""
        return (self.priority, self.arrival)

    @property
    def length(self) -> int:
        """With all that steps in flight may bring."""
        return len(self.token_ids) + self.num_sampling

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Tokens that a step could compute now; 0 where the steps in flight may bring its last token."""
        length = len(self.token_ids) + self.num_sampling
        return length - self.num_computed if length < self.max_length else 0

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
        return self.num_passed_tokens > self.length

    @property
    def has_moved(self) -> bool:
        """Its admission is not where it ran before: elsewhere, or at a worker that was lost and is back under its name."""
        return self.has_lost_worker or self.admitted_before not in (None, self.worker_id)

    @property
    def is_suspect(self) -> bool:
        """It may be what kills workers."""
        return self.num_deaths >= NUM_DEATHS_OF_A_SUSPECT

    def record_death(self, length: int) -> None:
        """A worker died with steps of it in flight, the last of which may have made it so long."""
        self.num_deaths += 1
        self.length_at_death = length

    @property
    def num_pages(self) -> int:
        """To hold its whole length."""
        return -(-self.length // self.page_size)

    def num_new_pages(self, num_computed: int) -> int:
        """Pages to append to the block table before the first `num_computed` tokens can be held."""
        return max(0, -(-num_computed // self.page_size) - len(self.block_table))

    def begin_chunk(self, num_tokens: int, max_new_tokens: int) -> None:
        """Count a step that is sent. Of the new tokens that it promises, it computes all but the last."""
        self.num_computed += num_tokens
        self.num_sampling += max_new_tokens
        if max_new_tokens > 1:
            self.num_computed += max_new_tokens - 1
            self.num_uncertain += max_new_tokens - 1

    def append(self, token_ids: Seq[int], max_new_tokens: int) -> None:
        """Take in the tokens that a step brought, of so many that it had promised."""
        self.num_sampling -= max_new_tokens
        if max_new_tokens > 1:
            self.num_uncertain -= max_new_tokens - 1
            self.num_computed -= max_new_tokens - len(token_ids)
        self.token_ids.extend(token_ids)
        if len(self.token_ids) > self.length_at_death:
            self.num_deaths = 0
        self.hash_full_blocks()

    def hash_full_blocks(self) -> None:
        """Name the blocks that have become full of known tokens."""
        hashes, size = self.block_hashes, self.page_size
        while (end := len(hashes) * size) <= len(self.token_ids):
            hashes.append(hash_block(hashes[-1], self.token_ids[end - size : end]))

    def sealable(self) -> list[tuple[PageId, BlockHash]]:
        """Pages whose block is full, known, and filled by a step that has been sent. Marks them as sealed."""
        # With a step in flight all known tokens are computed, and without one `num_computed` is exact.
        first, end = self.num_sealed, min(self.num_computed // self.page_size, len(self.block_hashes) - 1)
        if end <= first:
            return []
        self.num_sealed = end
        return [(self.block_table[i], self.block_hashes[i + 1]) for i in range(first, end)]

    def forget_computation(self) -> list[PageId]:
        """Back to nothing computed, tokens kept; returns the pages that it held. Results of the old attempt no longer count."""
        pages, self.block_table = self.block_table, []
        self.num_computed = self.num_sampling = self.num_uncertain = self.num_sealed = 0
        self.attempt += 1
        return pages
