"""The placement of waiting sequences on workers, by the functions of router.py.

A *round* places the waiting sequences of one model while the next steps of its workers are planned. Its choices are not kept: a
sequence that no worker admits in this round is placed again in the next one. Within the round each choice counts as if it were
carried out, with its load and its future blocks, so that samples of one request that arrive together go to the same worker.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import count, islice
from operator import attrgetter

from scheduler.clock import TimerHandle
from scheduler.context import SchedulerContext
from scheduler.faults.suspects import next_on
from scheduler.routing.prospect import Prospect
from scheduler.routing.router import Candidate, RoutingPolicy, Waiting
from scheduler.steps.sequence import Sequence, SequenceStatus
from scheduler.steps.worker_state import AttachedWorker

# Number of sequences left to wait for a busy worker after which a round stops, so that a step does not search a long queue.
MAX_PASSED_OVER = 64
_RANK = attrgetter("rank")
# A timer may fire a moment early; this keeps it from being set again for that moment.
_MIN_DETOUR_S = 0.001


class Placement:
    """The rounds of all models, and the timer of sequences that wait for a busy worker while another one is free."""

    def __init__(
        self, context: SchedulerContext, policy: RoutingPolicy, *, takes_new: Callable[[AttachedWorker], bool]
    ) -> None:
        self._context = context
        self._policy = policy
        self._takes_new = takes_new
        self._rounds: dict[str, Round] = {}
        self._quarantines: Mapping[str, AttachedWorker] = {}
        self._timer: TimerHandle | None = None

    def begin_rounds(self, quarantines: Mapping[str, AttachedWorker]) -> None:
        """Begin a new round for each model. `quarantines` are the quarantine workers by model, on which only suspects run."""
        self._quarantines = quarantines
        self._rounds.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sequences_for_worker(self, worker: AttachedWorker) -> Iterator[Sequence]:
        """Yield the sequences that this worker may admit now. The round is set up when the first one is requested."""
        if not self._takes_new(worker):
            return
        model = worker.info.model
        quarantine = self._quarantines.get(model)
        if worker is quarantine:
            suspect = next_on(quarantine, self._context.waiting.of_model(model))
            yield from [suspect] if suspect is not None else []
            return
        if model not in self._rounds:
            self._rounds[model] = self._round(model, quarantine)
        yield from self._rounds[model].sequences_placed_on(worker)

    def _round(self, model: str, quarantine: AttachedWorker | None) -> "Round":
        of_model = (each for each in self._context.workers.values() if each.info.model == model)
        workers = [each for each in of_model if each is not quarantine and self._takes_new(each)]
        waiting = (each for each in self._context.waiting.of_model(model) if not each.deaths.makes_suspect)
        return Round(self._policy, workers, waiting, self._context.clock.time())

    def end_rounds(self) -> None:
        """Schedule another round for the first detour, since the busy worker's next result may be late or never come."""
        detour_in_s = min((each.detour_in_s for each in self._rounds.values()), default=math.inf)
        if detour_in_s < math.inf:
            self._timer = self._context.clock.call_later(max(detour_in_s, _MIN_DETOUR_S), self._context.wake)


class Round:
    def __init__(
        self, policy: RoutingPolicy, workers: Iterable[AttachedWorker], waiting: Iterable[Sequence], now_s: float
    ) -> None:
        """Set up a round: `workers` are those of a model that admit new sequences, and `waiting` is in the order of admission."""
        self.detour_in_s = math.inf
        """Seconds until the first sequence that waits for a busy worker takes another one instead."""
        self.num_decided = 0
        self._policy = policy
        self._now_s = now_s
        self._prospects = {worker.info.worker_id: Prospect(worker, now_s) for worker in workers}
        self._ids = sorted(self._prospects)
        self._by_load = sorted(self._prospects.values(), key=_RANK)
        self._smallest_pool = min(each.worker.pool.num_pages for each in self._by_load)
        num_places = sum(prospect.num_places for prospect in self._by_load)
        self._undecided = deque(islice(waiting, MAX_PASSED_OVER + num_places))
        self._on_detour: deque[Sequence] = deque()
        self._num_passed_over = 0

    def sequences_placed_on(self, worker: AttachedWorker) -> Iterator[Sequence]:
        """Yield the sequences placed on this worker. Each one is placed only when the worker asks for it."""
        placed = self._prospects[worker.info.worker_id].placed
        for index in count():
            while index == len(placed):
                if not self._decide_next():
                    return
            if placed[index].status is SequenceStatus.WAITING:
                yield placed[index]

    def _decide_next(self) -> bool:
        """Place one sequence. Return False if none is left. Detours come last, after the sequences that the worker suits best."""
        if self._undecided and self._num_passed_over < MAX_PASSED_OVER:
            self._decide(self._undecided.popleft(), may_detour=False)
        elif self._on_detour:
            self._decide(self._on_detour.popleft(), may_detour=True)
        else:
            return False
        return True

    def _decide(self, sequence: Sequence, *, may_detour: bool) -> None:
        self.num_decided += 1
        able = self._able_to_hold(sequence)
        if len(able) == 1:
            self._place(sequence, able[0])
            return
        ids = self._ids if able is self._by_load else sorted(each.worker.info.worker_id for each in able)
        waiting = Waiting(self._now_s - sequence.history.arrival_s, ids[sequence.arrival % len(ids)])
        choice = self._policy(waiting, contenders(sequence, able))
        if choice.is_detour and not may_detour:
            self._on_detour.append(sequence)
            return
        chosen = self._prospects[choice.worker_id]
        self._num_passed_over += not chosen.can_take(sequence)
        self._place(sequence, chosen)
        if choice.detour_in_s is not None:
            self.detour_in_s = min(self.detour_in_s, choice.detour_in_s)

    def _place(self, sequence: Sequence, prospect: Prospect) -> None:
        self._by_load.remove(prospect)
        prospect.place_sequence(sequence)
        insort(self._by_load, prospect, key=_RANK)

    def _able_to_hold(self, sequence: Sequence) -> Seq[Prospect]:
        """Return the workers whose pool is large enough. A sequence that ran before goes to a worker with the same numerics id, if
        there is one. A sequence that is too long for every pool may go to any worker, where its plan ends it."""
        able = self._by_load
        if sequence.num_pages > self._smallest_pool:
            able = [each for each in able if sequence.num_pages <= each.worker.pool.num_pages]
        if sequence.computation.numerics_id is not None:
            able = [each for each in able if each.worker.info.numerics_id == sequence.computation.numerics_id] or able
        return able or self._by_load[:1]


def contenders(sequence: Sequence, by_load: Iterable[Prospect]) -> list[Candidate]:
    """Return the candidates, without workers that hold no more of the sequence than a less loaded one that could take it as well.

    So most workers are asked for only one block, and a round stays cheap with many workers.
    """
    blocks = sequence.shareable_blocks
    candidates = []
    most_held = most_held_by_able = -1
    for prospect in by_load:
        can_take_it = prospect.can_take(sequence)
        known = most_held_by_able if can_take_it else most_held
        if known >= 0 and not prospect.holds_more(blocks, known):
            continue
        candidate = prospect.candidate(sequence, can_take_it=can_take_it)
        candidates.append(candidate)
        most_held = max(most_held, candidate.num_cached_tokens // sequence.page_size)
        if can_take_it:
            most_held_by_able = candidate.num_cached_tokens // sequence.page_size
    return candidates
