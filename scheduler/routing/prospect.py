"""A worker as a placement round sees it: as if the sequences that the round has placed there were running already."""

from collections.abc import Sequence as Seq

from kvcache.block_hash import BlockHash
from scheduler.routing.router import Candidate, Rank, rank_of
from scheduler.steps.sequence import Sequence
from scheduler.steps.worker_state import AttachedWorker


class Prospect:
    def __init__(self, worker: AttachedWorker, now_s: float) -> None:
        self.worker = worker
        self.placed: list[Sequence] = []
        self._steps = worker.steps
        self._held = worker.pool.blocks
        self._num_running = len(worker.running)
        self._num_context_tokens = self._steps.unanswered[-1].num_context_tokens if self._steps.unanswered else 0
        self._num_available = worker.pool.num_available
        self._num_committed = sum(step.num_tokens for step in worker.steps.unanswered) - _num_done(worker, now_s)
        self._num_committed += sum(sequence.num_pending for sequence in worker.prefilling.values())
        self._to_be_computed: dict[BlockHash, list[Sequence]] = {}
        """Sequences that the worker will compute, by first block. Most of their blocks do not exist yet, but will."""
        for sequence in worker.prefilling.values():
            self._expect(sequence)
        self.rank = self._rank()
        """Rank among all workers of the model by load alone, regardless of their caches."""

    @property
    def num_places(self) -> int:
        return max(0, self.worker.step_limits.max_step_sequences - self._num_running)

    def can_take(self, sequence: Sequence) -> bool:
        """Return True if the worker can admit the sequence in the step that is planned now."""
        return self._steps.has_room and self._has_room(sequence)

    def holds_more(self, blocks: Seq[BlockHash], num_held: int) -> bool:
        """Return True if the worker holds, or will hold, more than `num_held` leading blocks."""
        if num_held == len(blocks):
            return False
        if blocks[num_held] in self._held:
            return True
        return blocks[0] in self._to_be_computed and self._num_expected(blocks, num_held) > num_held

    def candidate(self, sequence: Sequence, *, can_take_it: bool) -> Candidate:
        blocks = sequence.shareable_blocks
        num_here = self._num_here(blocks)
        num_expected = self._num_expected(blocks, num_here)
        num_shared = num_expected - self.worker.sealed.count_final(blocks[:num_here])
        size = sequence.page_size
        # The running step has already computed some of them.
        num_shared_tokens = min(num_shared * size, self._num_committed)
        return self._candidate(num_expected * size, num_shared_tokens, can_take_it=can_take_it)

    def place_sequence(self, sequence: Sequence) -> None:
        blocks = sequence.shareable_blocks
        num_cached = self._num_expected(blocks, self._num_here(blocks))
        self._num_committed += sequence.length - num_cached * sequence.page_size
        self._num_available -= self._num_pages_to_take(sequence)
        self._num_running += 1
        self._num_context_tokens += sequence.length
        self._expect(sequence)
        self.placed.append(sequence)
        self.rank = self._rank()

    def _rank(self) -> Rank:
        return rank_of(self._candidate(0, 0, can_take_it=True))

    def _candidate(self, num_cached_tokens: int, num_shared_tokens: int, *, can_take_it: bool) -> Candidate:
        return Candidate(
            worker_id=self.worker.info.worker_id,
            num_cached_tokens=num_cached_tokens,
            num_shared_tokens=num_shared_tokens,
            num_committed_tokens=self._num_committed,
            num_running=self._num_running,
            num_context_tokens=self._num_context_tokens,
            num_computed_tokens=self.worker.num_prompt_tokens,
            can_take_it=can_take_it,
            tokens_per_s=self.worker.prompt_speed.tokens_per_s,
        )

    def _expect(self, sequence: Sequence) -> None:
        if len(sequence.block_hashes) > 1:
            self._to_be_computed.setdefault(sequence.block_hashes[1], []).append(sequence)

    def _num_here(self, blocks: Seq[BlockHash]) -> int:
        """Return the number of leading blocks that are in pages."""
        return self.worker.pool.count_held(blocks) if blocks and blocks[0] in self._held else 0

    def _num_expected(self, blocks: Seq[BlockHash], num_known: int) -> int:
        """Return the number of leading blocks that will be in pages, at least `num_known`."""
        if blocks:
            for other in self._to_be_computed.get(blocks[0], ()):
                num_known = _count_common(blocks, other.block_hashes, num_known)
        return num_known

    def _has_room(self, sequence: Sequence) -> bool:
        if self.num_places == 0:
            return False
        reserve = self.worker.step_limits.watermark_pages if self._num_running else 0
        num_left = self._num_available - reserve
        return sequence.num_pages <= num_left or self._num_pages_to_take(sequence) <= num_left

    def _num_pages_to_take(self, sequence: Sequence) -> int:
        """Return the number of available pages that the sequence takes: all but those that it shares with a running sequence."""
        return sequence.num_pages - self.worker.pool.count_used(sequence.shareable_blocks)


def _num_done(worker: AttachedWorker, now_s: float) -> int:
    """Return the number of tokens that the running step has probably computed."""
    step = worker.steps.oldest
    return min(step.num_tokens, worker.prompt_speed.tokens_since_begin(now_s)) if step is not None else 0


def _count_common(blocks: Seq[BlockHash], other_hashes: Seq[BlockHash], num_known: int) -> int:
    """Return the number of leading blocks that two sequences share, at least `num_known`. `other_hashes` begins with the root.

    Equal hashes mean equal prefixes, so the first difference is found by bisection.
    """
    low, high = num_known, min(len(blocks), len(other_hashes) - 1)
    while low < high:
        # Check the very next block first, since most sequences share nothing more.
        middle = low if low == num_known else (low + high) // 2
        if blocks[middle] == other_hashes[1 + middle]:
            low = middle + 1
        else:
            high = middle
    return low
