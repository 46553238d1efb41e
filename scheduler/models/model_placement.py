"""Which worker loads which model next, and which model has to go for it. Pure: it sends nothing and remembers nothing.

A worker is a slot for one model. Models that are waited for and nowhere in memory get, in the order of how long that has been so:

1. an empty slot, if its machine has memory for the model;
2. else the slot, or the memory, of the model that was not used for longest, copies of a model that is elsewhere too first;
3. else a slot whose model is used: it takes no new requests until those that run have ended. Only where all that waits for that
   model came later, and only once it has had its time (`Slot.stays_until_s`), so that two models that share a slot spend their
   time on answers and not on loading.

A model with running requests is never unloaded.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import Enum, auto

from scheduler.keep_alive import KeepAlive
from scheduler.models.worker_stores import UnloadedWorker, WorkerStores
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase


class SlotState(Enum):
    EMPTY = auto()
    LOADING = auto()
    """`model` is on its way into memory."""
    SERVING = auto()
    """`model` is in memory."""
    LEAVING = auto()
    """It is between two streams, and will be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    worker_id: str
    host_id: str
    """Slots of one host share its memory."""
    state: SlotState
    loadable: Mapping[str, int]
    """The models that it could hold, and about how many bytes each takes."""
    model: str | None = None
    home_model: str | None = None
    """The model that it takes in when it is needed for nothing else."""
    is_running: bool = False
    """Requests run there."""
    idle_since_s: float = 0.0
    stays_until_s: float = 0.0
    """Until then its model does not have to make room."""

    @property
    def has_model(self) -> bool:
        return self.state in (SlotState.SERVING, SlotState.LOADING)


@dataclass(frozen=True, slots=True)
class Moves:
    loads: Mapping[str, str]
    """Model by worker id."""
    unloads: tuple[str, ...] = ()
    """Worker ids."""
    closed: frozenset[str] = frozenset()
    """Workers that take no new requests, so that their model can leave."""


NOTHING_MOVES = Moves({})


def place_models(
    slots: Sequence[Slot], wanted: Mapping[str, float], available_bytes: Mapping[str, int], now_s: float
) -> Moves:
    """Return what to load and unload now.

    `wanted` says since when each model is waited for; `available_bytes` how much memory hosts have, where that is known.
    """
    placing = _Placing(slots, wanted, dict(available_bytes), now_s)
    for model in sorted(wanted, key=lambda model: (wanted[model], model)):
        if not any(slot.model == model and slot.has_model for slot in slots):
            placing.make_place(model)
    placing.fill_homes()
    return Moves(placing.loads, tuple(placing.unloads), frozenset(placing.closed))


class _Placing:
    """One placement in the making."""

    def __init__(
        self, slots: Sequence[Slot], wanted: Mapping[str, float], available_bytes: dict[str, int], now_s: float
    ) -> None:
        self.loads: dict[str, str] = {}
        self.unloads: list[str] = []
        self.closed: list[str] = []
        self._slots = slots
        self._wanted = wanted
        self._available_bytes = available_bytes
        self._now_s = now_s
        self._taken: set[str] = set()

    def make_place(self, model: str) -> None:
        empty = sorted(self._able(SlotState.EMPTY, model), key=lambda slot: (slot.home_model != model, slot.worker_id))
        for slot in empty:
            if self._has_memory(slot, model):
                self._load(slot, model)
                return
        if leaving := next(self._able(SlotState.LEAVING, model), None):
            self._taken.add(leaving.worker_id)
            return
        short = {slot.host_id for slot in empty}
        holders = [slot for slot in self._free(SlotState.SERVING) if model in slot.loadable or slot.host_id in short]
        if idle := [slot for slot in holders if not slot.is_running and slot.model not in self._wanted]:
            self._take(min(idle, key=self._worth), self.unloads)
        elif used := [slot for slot in holders if self._gives_way(slot, model)]:
            slot = min(used, key=self._patience)
            self._take(slot, self.closed if slot.is_running else self.unloads)
        elif empty and not self._has_model(short):
            # Nothing can be done about the memory. Whether it is really too little, loading will show.
            self._load(empty[0], model)

    def fill_homes(self) -> None:
        """Load copies of a model that is in memory already, into workers that were started with it."""
        for slot in list(self._free(SlotState.EMPTY)):
            home = slot.home_model
            if home and home in self._wanted and home in slot.loadable and self._has_memory(slot, home):
                self._load(slot, home)

    def _free(self, state: SlotState) -> Iterator[Slot]:
        return (slot for slot in self._slots if slot.state is state and slot.worker_id not in self._taken)

    def _able(self, state: SlotState, model: str) -> Iterator[Slot]:
        return (slot for slot in self._free(state) if model in slot.loadable)

    def _has_model(self, host_ids: Set[str]) -> bool:
        return any(slot.has_model or slot.worker_id in self.loads for slot in self._slots if slot.host_id in host_ids)

    def _has_memory(self, slot: Slot, model: str) -> bool:
        available = self._available_bytes.get(slot.host_id)
        return available is None or slot.loadable[model] <= available

    def _load(self, slot: Slot, model: str) -> None:
        self.loads[slot.worker_id] = model
        self._taken.add(slot.worker_id)
        if slot.host_id in self._available_bytes:
            self._available_bytes[slot.host_id] -= slot.loadable[model]

    def _take(self, slot: Slot, into: list[str]) -> None:
        into.append(slot.worker_id)
        self._taken.add(slot.worker_id)

    def _gives_way(self, slot: Slot, model: str) -> bool:
        waits_longer = self._wanted.get(slot.model or "", math.inf) > self._wanted[model]
        return waits_longer and self._now_s >= slot.stays_until_s

    def _worth(self, slot: Slot) -> tuple[bool, float, str]:
        """Return the rank of an idle slot; the least goes first."""
        return not self._has_copy(slot), slot.idle_since_s, slot.worker_id

    def _patience(self, slot: Slot) -> tuple[bool, float, str]:
        """Return the rank of a slot in use; the least, whose model is waited for last of all, goes first."""
        return not self._has_copy(slot), -self._wanted.get(slot.model or "", math.inf), slot.worker_id

    def _has_copy(self, slot: Slot) -> bool:
        return any(other.model == slot.model for other in self._free(SlotState.SERVING) if other is not slot)


def gather_slots(
    workers: Iterable[AttachedWorker], stores: WorkerStores, keep_alive: KeepAlive, stays_until_s: Mapping[str, float]
) -> list[Slot]:
    """Return a slot for each worker that stays: for those with a model, then for `stores.unloaded`.

    `stays_until_s` says by worker id how long a model keeps its slot.
    """
    slots = []
    for worker in workers:
        if worker.phase is WorkerPhase.SERVING:
            info = worker.info
            slot = _slot(info.worker_id, stores, SlotState.SERVING, "" if stores.is_outdated(info) else info.model)
            since_s, until_s = keep_alive.idle_since_s(info.model), stays_until_s.get(info.worker_id, 0.0)
            slots.append(replace(slot, is_running=not worker.is_idle, idle_since_s=since_s, stays_until_s=until_s))
    for unloaded in stores.unloaded.values():
        if not unloaded.is_lost:
            slots.append(_slot(unloaded.worker_id, stores, _state(unloaded), unloaded.loading))
    return slots


def _slot(worker_id: str, stores: WorkerStores, state: SlotState, model: str | None) -> Slot:
    said = stores[worker_id].loadable
    return Slot(
        worker_id=worker_id,
        host_id=said.host_id,
        state=state,
        loadable={each.name: each.needed_bytes for each in said.models},
        model=model,
        home_model=said.home_model,
    )


def _state(worker: UnloadedWorker) -> SlotState:
    if worker.loading is not None:
        return SlotState.LOADING
    return SlotState.LEAVING if worker.link is None else SlotState.EMPTY
