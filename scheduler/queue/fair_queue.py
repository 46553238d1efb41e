"""The queue of waiting sequences, ordered by priority, then by fair shares of the tenants, then by fair shares of the sizes.

Shares of tenants are the virtual token counters of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024,
https://arxiv.org/abs/2401.00588). Each tenant has a counter of the tokens computed for it: a prompt token counts 1, a generated
token 2. The tenant with the lowest counter goes first. The counter of a tenant that begins to wait is raised to the lowest counter
of the waiting tenants, so that no tenant saves up. While two tenants of a priority both wait, the costs that one engine computes
for them differ by at most 2 * max(longest prompt, 2 * most tokens that it holds); with several workers, by that much for each.

Within a tenant, calls of about the same size are served in the order of their arrival, and the sizes have equal shares of the
tokens. Each sequence gets a turn when it arrives, by start-time fair queueing (Goyal et al., SIGCOMM 1996), with one flow for each
power of four of its call's tokens. So a thousand long prompts do not delay a short one, and short ones delay a long one by
at most its own length for each of the sizes.

Prompt tokens that come from the cache cost nothing, nor do tokens that are computed again after a preemption or a lost worker.
"""

import bisect
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Set
from operator import attrgetter

from pagoda.wire.load import QueueLoad
from scheduler.steps.sequence import Sequence

PROMPT_TOKEN_COST, OUTPUT_TOKEN_COST = 1, 2
# One in this many sequences that leave the queue is the oldest, regardless of its priority, so that low priorities do not starve.
OLDEST_EVERY = 16
# Clients may name any number of tenants, and each row of the loads becomes a time series.
MAX_TENANTS = 20
OTHER_TENANTS = "other"


class TenantQueue:
    """The sequences of one tenant that have not run yet, in order of their turns."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self._turn = 0
        """Latest turn of a sequence that was first in this queue. A new sequence gets no earlier turn."""
        self._next_turns: dict[int, int] = {}
        """Turn of the next new sequence of each size."""
        self._num_tokens: Counter[str] = Counter()
        """Tokens of the waiting sequences of each call."""

    def insert_sequence(self, sequence: Sequence) -> None:
        self._num_tokens[sequence.group] += sequence.length
        size = self._num_tokens[sequence.group].bit_length() // 2
        sequence.queue_place.turn = max(self._turn, self._next_turns.get(size, 0))
        self._next_turns[size] = sequence.queue_place.turn + sequence.length
        bisect.insort(self.sequences, sequence, key=_turn)

    def delete_sequence(self, sequence: Sequence) -> None:
        del self.sequences[self.index_of_sequence(sequence)]
        self._num_tokens[sequence.group] -= sequence.length
        if self._num_tokens[sequence.group] <= 0:
            del self._num_tokens[sequence.group]
        if self.sequences:
            self._turn = max(self._turn, self.sequences[0].queue_place.turn)

    def index_of_sequence(self, sequence: Sequence) -> int:
        """Return the place of a sequence; the first one has place 0."""
        return bisect.bisect_left(self.sequences, _turn(sequence), key=_turn)


class WaitingSequences:
    """A read-only view of the waiting sequences. `FairQueue` adds and removes them."""

    def __init__(self) -> None:
        self._of_tenant: dict[str, TenantQueue] = {}
        """Sequences that have not run yet, by tenant. No entry is empty."""
        self._returned: list[Sequence] = []
        """Sequences that have run before, in order. They go first: they have had their turn, and their clients see them pause."""
        self._served: defaultdict[str, int] = defaultdict(int)
        """Virtual token counter of each tenant (docs/overload.md)."""
        self._of_model: defaultdict[str, set[Sequence]] = defaultdict(set)
        """All waiting sequences, by model. No entry is empty."""
        self._level = 0
        """Counter of the tenant whose sequence left the queue last."""
        self._num_of_priority: Counter[int] = Counter()
        """Number of waiting sequences of each priority. No entry is 0."""
        self._num_left = 0
        """Number of sequences that have left the queue."""

    def __len__(self) -> int:
        return self._num_of_priority.total()

    def __iter__(self) -> Iterator[Sequence]:
        """Yield the sequences in the order of admission, as if each were charged for its prompt before the next is chosen."""
        heap = [(each.priority, -1, each.arrival, "", index) for index, each in enumerate(self._returned)]
        heap += [self._head(tenant, 0, self._served[tenant]) for tenant in self._of_tenant]
        heapq.heapify(heap)
        while heap:
            _, served, _, tenant, index = heapq.heappop(heap)
            if served < 0:
                yield self._returned[index]
                continue
            queue = self._of_tenant[tenant].sequences
            yield queue[index]
            if index + 1 < len(queue):
                heapq.heappush(heap, self._head(tenant, index + 1, served + len(queue[index].token_ids)))

    def in_any_order(self) -> Iterator[Sequence]:
        yield from self._returned
        for queue in self._of_tenant.values():
            yield from queue.sequences

    @property
    def num_tokens(self) -> int:
        """Total number of tokens that the waiting sequences would compute with empty caches."""
        return sum(len(each.token_ids) for each in self.in_any_order())

    def num_waiting(self, tenant: str) -> int:
        """Return the number of the tenant's waiting sequences that have not run yet."""
        return len(self._of_tenant[tenant].sequences) if tenant in self._of_tenant else 0

    @property
    def models(self) -> Set[str]:
        """Models that at least one sequence waits for."""
        return self._of_model.keys()

    def of_model(self, model: str) -> Iterator[Sequence]:
        """Yield the model's sequences in the order of admission."""
        if model not in self._of_model:
            return
        first = None
        if len(self._num_of_priority) > 1 and self._num_left % OLDEST_EVERY == OLDEST_EVERY - 1:
            first = min(self._of_model[model], key=attrgetter("arrival"))
            yield first
        yield from (sequence for sequence in self if sequence.model == model and sequence is not first)

    def waiting_since_s(self, model: str) -> float:
        """Return the arrival time of the oldest sequence that waits for the model."""
        return min(sequence.history.arrival_s for sequence in self._of_model[model])

    def place_in_line(self, sequence: Sequence) -> int:
        """Return the place of a sequence that has not run yet among those of its tenant. The first one has place 1."""
        return 1 + self._of_tenant[sequence.tenant].index_of_sequence(sequence)

    def _head(self, tenant: str, index: int, served: int) -> tuple[int, int, int, str, int]:
        priority, arrival = self._of_tenant[tenant].sequences[index].order
        return priority, served, arrival, tenant, index


class FairQueue(WaitingSequences):
    """The waiting sequences, with the methods that change them. Only `Lifecycle` uses it."""

    def enqueue_sequence(self, sequence: Sequence) -> None:
        self._of_model[sequence.model].add(sequence)
        self._num_of_priority[sequence.priority] += 1
        if sequence.history.first_step_s is not None:
            bisect.insort(self._returned, sequence, key=_order)
            return
        tenant = sequence.tenant
        if tenant not in self._of_tenant:
            least = min((self._served[other] for other in self._of_tenant), default=self._level)
            self._served[tenant] = max(self._served[tenant], least)
            self._of_tenant[tenant] = TenantQueue()
        self._of_tenant[tenant].insert_sequence(sequence)

    def dequeue_sequence(self, sequence: Sequence) -> None:
        """Remove a sequence that is admitted or has ended."""
        self._num_left += 1
        self._num_of_priority[sequence.priority] -= 1
        if not self._num_of_priority[sequence.priority]:
            del self._num_of_priority[sequence.priority]
        self._of_model[sequence.model].remove(sequence)
        if not self._of_model[sequence.model]:
            del self._of_model[sequence.model]
        if sequence.history.first_step_s is not None:
            self._returned.remove(sequence)
            return
        tenant = sequence.tenant
        self._level = self._served[tenant]
        self._of_tenant[tenant].delete_sequence(sequence)
        if not self._of_tenant[tenant].sequences:
            del self._of_tenant[tenant]

    def charge_tokens(self, tenant: str, num_prompt_tokens: int = 0, num_output_tokens: int = 0) -> None:
        self._served[tenant] += PROMPT_TOKEN_COST * num_prompt_tokens + OUTPUT_TOKEN_COST * num_output_tokens


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _turn(sequence: Sequence) -> tuple[int, int, int, int]:
    """Return the sort key of a sequence within its tenant. If turns are equal, the shortest goes first."""
    return sequence.priority, sequence.queue_place.turn, sequence.length, sequence.arrival


# ---- reports

_Row = tuple[str, str]
"""A model and a tenant."""


def queue_loads(waiting: WaitingSequences, now_s: float) -> list[QueueLoad]:
    """Return the load by model and tenant. Only the longest rows keep their tenant; the others are merged for each model."""
    arrivals: dict[_Row, list[float]] = {}
    for sequence in waiting.in_any_order():
        arrivals.setdefault((sequence.model, sequence.tenant), []).append(sequence.history.arrival_s)
    positions = _next_positions(waiting, len(arrivals))
    ranked = sorted(arrivals, key=lambda row: (-len(arrivals[row]), row))
    merged: dict[_Row, list[_Row]] = {}
    for number, (model, tenant) in enumerate(ranked):
        merged.setdefault((model, tenant if number < MAX_TENANTS else OTHER_TENANTS), []).append((model, tenant))
    return [
        QueueLoad(
            model=model,
            tenant=tenant,
            num_waiting=sum(len(arrivals[row]) for row in rows),
            oldest_s=now_s - min(min(arrivals[row]) for row in rows),
            next_position=min(positions[row] for row in rows),
        )
        for (model, tenant), rows in merged.items()
    ]


def _next_positions(waiting: WaitingSequences, num_rows: int) -> dict[_Row, int]:
    """Return the position of each row's next sequence. The search ends when each row has one, which is early with fair shares."""
    positions: dict[_Row, int] = {}
    for position, sequence in enumerate(waiting, start=1):
        positions.setdefault((sequence.model, sequence.tenant), position)
        if len(positions) == num_rows:
            break
    return positions
