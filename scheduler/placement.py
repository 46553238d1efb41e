"""Placing those who wait: what the router's functions are asked, and what becomes of their choices.

A *round* is one look at the queue and at all workers of a model, while their next steps are planned. Nothing that it finds out
outlives it: a sequence is placed when a worker takes it, and where it would have gone a moment before does not matter. Within the
round each choice is known to those after it as if it had been carried out: the load that it brings, and the blocks that will be
there, so that siblings that arrive together find the place where the first of them is computed.
Knows nothing about tokens, streams and clients.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import count, islice

from kvcache.block_hash import BlockHash
from scheduler.fair_queue import FairQueue
from scheduler.keep_alive import TimerHandle, Timers
from scheduler.router import Candidate, RoutingPolicy, Waiting
from scheduler.sequence import Sequence, SequenceStatus
from scheduler.suspects import next_on
from scheduler.worker_state import AttachedWorker

# So many sequences may be left to wait for a busy worker before a round looks at no more of them: a queue of thousands must not
# be gone through with each step.
MAX_PASSED_OVER = 64
# A timer that fires a moment early is not set again for that moment.
_MIN_DETOUR_S = 0.001


class Placement:
    """The rounds of all models, and the timer of those who wait for a busy worker while another has nothing to do."""

    def __init__(
        self,
        policy: RoutingPolicy,
        timers: Timers,
        workers: Mapping[str, AttachedWorker],
        waiting: FairQueue,
        wake: Callable[[], object],
        *,
        takes_new: Callable[[AttachedWorker], bool],
    ) -> None:
        self._takes_new = takes_new
        self._policy = policy
        self._timers = timers
        self._workers = workers
        self._waiting = waiting
        self._wake = wake
        self._rounds: dict[str, Round] = {}
        self._hosts: Mapping[str, AttachedWorker] = {}
        self._timer: TimerHandle | None = None

    def begin_rounds(self, hosts: Mapping[str, AttachedWorker]) -> None:
        """`hosts` are the workers that are kept for suspects, by model."""
        self._hosts = hosts
        self._rounds.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def offers(self, worker: AttachedWorker) -> Iterator[Sequence]:
        """Those who go to this worker now. Nothing is looked at before the first is asked for."""
        if not self._takes_new(worker):
            return
        model = worker.info.model
        host = self._hosts.get(model)
        if worker is host:
            suspect = next_on(host, self._waiting.of_model(model))
            yield from [suspect] if suspect is not None else []
            return
        if model not in self._rounds:
            self._rounds[model] = self._round(model, host)
        yield from self._rounds[model].offers(worker)

    def _round(self, model: str, host: AttachedWorker | None) -> "Round":
        of_model = (each for each in self._workers.values() if each.info.model == model and each is not host)
        workers = [each for each in of_model if self._takes_new(each)]
        waiting = (each for each in self._waiting.of_model(model) if not each.is_suspect)
        return Round(self._policy, workers, waiting, self._timers.time())

    def end_rounds(self) -> None:
        """Without this, nothing need happen before the busy worker's next result: it may be long, or never."""
        detour_in_s = min((each.detour_in_s for each in self._rounds.values()), default=math.inf)
        if detour_in_s < math.inf:
            self._timer = self._timers.call_later(max(detour_in_s, _MIN_DETOUR_S), self._wake)


class Round:
    def __init__(
        self, policy: RoutingPolicy, workers: Iterable[AttachedWorker], waiting: Iterable[Sequence], now_s: float
    ) -> None:
        """All workers of a model that take new sequences, and those who wait for it, in the order of admission."""
        self.detour_in_s = math.inf
        """When the first of those who are left to wait for a busy worker would rather go to one that could take him now."""
        self.num_decided = 0
        self._policy = policy
        self._now_s = now_s
        by_id = sorted(workers, key=lambda worker: worker.info.worker_id)
        self._prospects = {worker.info.worker_id: _Prospect(worker) for worker in by_id}
        self._all = list(self._prospects.values())
        self._smallest_pool = min(each.worker.pool.num_pages for each in self._all)
        num_places = sum(prospect.num_places for prospect in self._all)
        self._undecided = deque(islice(waiting, MAX_PASSED_OVER + num_places))
        self._on_detour: deque[Sequence] = deque()
        self._num_passed_over = 0

    def offers(self, worker: AttachedWorker) -> Iterator[Sequence]:
        """Decided one by one as they are asked for: a worker that is full asks no more."""
        placed = self._prospects[worker.info.worker_id].placed
        for index in count():
            while index == len(placed):
                if not self._decide_next():
                    return
            if placed[index].status is SequenceStatus.WAITING:
                yield placed[index]

    def _decide_next(self) -> bool:
        """False when nobody is left. Those on a detour come last, after all whom a worker suits best."""
        if self._undecided and self._num_passed_over < MAX_PASSED_OVER:
            self._decide(self._undecided.popleft(), may_detour=False)
        elif self._on_detour:
            self._decide(self._on_detour.popleft(), may_detour=True)
        else:
            return False
        return True

    def _decide(self, sequence: Sequence, *, may_detour: bool) -> None:
        self.num_decided += 1
        prospects = self._able_to_hold(sequence)
        if len(prospects) == 1:
            prospects[0].place(sequence)
            return
        blocks = sequence.shareable_blocks
        candidates = [each.candidate(sequence, blocks) for each in prospects]
        waiting = Waiting(sequence.length, self._now_s - sequence.arrival_s, sequence.arrival)
        choice = self._policy(waiting, candidates)
        if choice.is_detour and not may_detour:
            self._on_detour.append(sequence)
            return
        self._prospects[choice.worker_id].place(sequence)
        self._num_passed_over += not next(each for each in candidates if each.worker_id == choice.worker_id).can_take_it
        if choice.detour_in_s is not None:
            self.detour_in_s = min(self.detour_in_s, choice.detour_in_s)

    def _able_to_hold(self, sequence: Sequence) -> Seq["_Prospect"]:
        """One that ran before goes on with the tokens it would have had, if any worker promises those. One that is too long for all
        of them may go to any: its plan ends it."""
        able = self._all
        if sequence.num_pages > self._smallest_pool:
            able = [each for each in self._all if sequence.num_pages <= each.worker.pool.num_pages]
        if sequence.numerics_id is not None:
            able = [each for each in able if each.worker.info.numerics_id == sequence.numerics_id] or able
        return able or self._all[:1]


class _Prospect:
    """A worker as it will be once all who have been placed there in this round are."""

    def __init__(self, worker: AttachedWorker) -> None:
        self.worker = worker
        self.placed: list[Sequence] = []
        self._num_running = len(worker.running)
        self._num_available = worker.pool.num_available
        self._num_committed = sum(step.num_tokens for step in worker.steps.unanswered)
        self._num_committed += sum(sequence.num_pending for sequence in worker.prefilling.values())
        self._to_be_computed: dict[BlockHash, list[Sequence]] = {}
        """By first block: the blocks of these sequences will be there, although most are not yet."""
        for sequence in worker.prefilling.values():
            self._expect(sequence)
        self._as_stranger: dict[bool, Candidate] = {}
        """What it is for those of whom it holds nothing, by whether it can take them."""

    @property
    def num_places(self) -> int:
        return max(0, self.worker.step_limits.max_step_sequences - self._num_running)

    def candidate(self, sequence: Sequence, blocks: Seq[BlockHash]) -> Candidate:
        """`blocks` are those that the sequence could share."""
        num_cached = self._num_cached(blocks)
        can_take_it = self.worker.steps.has_room and self._has_room(sequence)
        if num_cached:
            return self._candidate(num_cached * sequence.page_size, can_take_it)
        if can_take_it not in self._as_stranger:
            self._as_stranger[can_take_it] = self._candidate(0, can_take_it)
        return self._as_stranger[can_take_it]

    def place(self, sequence: Sequence) -> None:
        self._num_committed += sequence.length - self._num_cached(sequence.shareable_blocks) * sequence.page_size
        self._num_available -= self._num_pages_to_take(sequence)
        self._num_running += 1
        self._expect(sequence)
        self._as_stranger.clear()
        self.placed.append(sequence)

    def _candidate(self, num_cached_tokens: int, can_take_it: bool) -> Candidate:
        return Candidate(
            worker_id=self.worker.info.worker_id,
            num_cached_tokens=num_cached_tokens,
            num_committed_tokens=self._num_committed,
            num_running=self._num_running,
            num_computed_tokens=self.worker.num_prompt_tokens,
            can_take_it=can_take_it,
            tokens_per_s=self.worker.prompt_speed.tokens_per_s,
        )

    def _expect(self, sequence: Sequence) -> None:
        if len(sequence.block_hashes) > 1:
            self._to_be_computed.setdefault(sequence.block_hashes[1], []).append(sequence)

    def _num_cached(self, blocks: Seq[BlockHash]) -> int:
        if not blocks:
            return 0
        num_cached = self.worker.pool.count_held(blocks) if self.worker.pool.holds(blocks[0]) else 0
        for other in self._to_be_computed.get(blocks[0], ()):
            num_cached = _count_common(blocks, other.block_hashes, num_cached)
        return num_cached

    def _has_room(self, sequence: Sequence) -> bool:
        if self.num_places == 0:
            return False
        reserve = self.worker.step_limits.watermark_pages if self._num_running else 0
        num_left = self._num_available - reserve
        return sequence.num_pages <= num_left or self._num_pages_to_take(sequence) <= num_left

    def _num_pages_to_take(self, sequence: Sequence) -> int:
        """Of those available now: without the pages that it shares with a running sequence."""
        return sequence.num_pages - self.worker.pool.count_used(sequence.shareable_blocks)


def _count_common(blocks: Seq[BlockHash], other_hashes: Seq[BlockHash], num_known: int) -> int:
    """How many leading blocks two sequences have in common, if more than `num_known`: `other_hashes` begins with the root.

    Equal hashes mean equal prefixes, so the first difference is found by bisection.
    """
    low, high = num_known, min(len(blocks), len(other_hashes) - 1)
    while low < high:
        # The first look is at the very next block: most sequences have nothing more in common.
        middle = low if low == num_known else (low + high) // 2
        if blocks[middle] == other_hashes[1 + middle]:
            low = middle + 1
        else:
            high = middle
    return low
