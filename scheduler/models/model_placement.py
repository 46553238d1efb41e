"""The choice of the models to load and unload, as pure functions.

A worker is a slot for one model. Models that are wanted and not loaded get a slot, the longest wanted one first:

1. an empty slot, if its machine has enough memory for the model;
2. else the slot, or the memory, of the least recently used idle model; copies of a model that is loaded elsewhere too go first;
3. else a slot whose model is in use, which takes no new requests until the running ones have ended. This happens only if all
   requests that wait for its model came later, and not before `Slot.stays_until_s`. Otherwise two models that share a slot would
   spend their time on loading.

A model with running requests is never unloaded. Nor is any for a model that would not fit if all others of the machine were
unloaded: such a model is refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from pagoda.models.memory_need import PROCESS_BYTES
from pagoda.process.memory import size
from scheduler.keep_alive import KeepAlive
from scheduler.models.worker_stores import UnloadedWorker, WorkerStores
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase


class SlotState(Enum):
    EMPTY = auto()
    LOADING = auto()
    """The worker loads `model`."""
    SERVING = auto()
    """The worker has `model` loaded."""
    LEAVING = auto()
    """The worker is between two streams. It will have no model in the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    worker_id: str
    host_id: str
    """Host of the worker. Slots of one host share its memory."""
    state: SlotState
    loadable: Mapping[str, int]
    """Approximate size in bytes of each model that the worker can load."""
    checks_memory: bool = False
    """True if the worker refuses models that need more memory than is available."""
    pages_bytes: int = 0
    """Memory that the pages of its model may have taken."""
    model: str | None = None
    home_model: str | None = None
    """Model that the worker loads if it is needed for no other."""
    is_running: bool = False
    """True if requests run on the worker."""
    idle_since_s: float = 0.0
    stays_until_s: float = 0.0
    """Time until which its model does not make room for another one."""

    @property
    def has_model(self) -> bool:
        return self.state in (SlotState.SERVING, SlotState.LOADING)

    @property
    def held_bytes(self) -> int:
        """The most memory that the worker may have, which a load may use after an unload. Without a model it is the process."""
        return self.pages_bytes + max(PROCESS_BYTES, self.loadable.get(self.model or "", 0))


@dataclass(frozen=True, slots=True)
class Lack:
    """The reason why a model is refused."""

    needed_bytes: int
    most_bytes: int
    """The most memory that would be available without any other model."""

    def describe(self, model: str) -> str:
        return (
            f"{model} needs about {size(self.needed_bytes)} of memory, but at most {size(self.most_bytes)} would be available "
            "if all other models were unloaded. Stop other programs, raise the limit of a container, or choose a smaller "
            "model or a file of fewer bits per weight."
        )


@dataclass(frozen=True, slots=True)
class Moves:
    loads: Mapping[str, str]
    """Models to load, by worker id."""
    unloads: tuple[str, ...] = ()
    """Ids of the workers that unload."""
    closed: frozenset[str] = frozenset()
    """Ids of workers that take no new requests, so that their model can be unloaded."""
    refused: Mapping[str, Lack] = field(default_factory=dict)
    """Models that are too large for all machines that could load them."""


NOTHING_MOVES = Moves({})


def place_models(
    slots: Sequence[Slot], wanted: Mapping[str, float], available_bytes: Mapping[str, int], now_s: float
) -> Moves:
    """Return the models to load and unload now.

    `wanted` has the time since which each model is wanted, and `available_bytes` the free memory of hosts, if known.
    """
    placing = _Placing(slots, wanted, dict(available_bytes), now_s)
    for model in sorted(wanted, key=lambda model: (wanted[model], model)):
        if not any(slot.model == model and slot.has_model for slot in slots):
            placing.make_place(model)
    placing.fill_homes()
    return Moves(placing.loads, tuple(placing.unloads), frozenset(placing.closed), placing.refused)


class _Placing:
    """A placement that is being decided."""

    def __init__(
        self, slots: Sequence[Slot], wanted: Mapping[str, float], available_bytes: dict[str, int], now_s: float
    ) -> None:
        self.loads: dict[str, str] = {}
        self.unloads: list[str] = []
        self.closed: list[str] = []
        self.refused: dict[str, Lack] = {}
        self._slots = slots
        self._wanted = wanted
        self._available_bytes = available_bytes
        self._most_bytes = _most_bytes(slots, available_bytes)
        self._now_s = now_s
        self._taken: set[str] = set()

    def make_place(self, model: str) -> None:
        able = [slot for slot in self._slots if model in slot.loadable]
        if able and all(self._is_too_small(slot, model) for slot in able):
            most_bytes = max(self._most_bytes[slot.host_id] for slot in able)
            self.refused[model] = Lack(max(slot.loadable[model] for slot in able), most_bytes)
            return
        empty = sorted(self._able(SlotState.EMPTY, model), key=lambda slot: (slot.home_model != model, slot.worker_id))
        for slot in empty:
            if self._has_memory(slot, model):
                self._load(slot, model)
                return
        if leaving := next(self._able(SlotState.LEAVING, model), None):
            self._taken.add(leaving.worker_id)
            return
        short = {slot.host_id for slot in empty}
        holders = [
            slot
            for slot in self._free(SlotState.SERVING)
            if slot.host_id in short or (model in slot.loadable and not self._is_too_small(slot, model))
        ]
        if idle := [slot for slot in holders if not slot.is_running and slot.model not in self._wanted]:
            self._take(min(idle, key=self._worth), self.unloads)
        elif used := [slot for slot in holders if self._gives_way(slot, model)]:
            slot = min(used, key=self._patience)
            self._take(slot, self.closed if slot.is_running else self.unloads)
        elif empty and not self._has_model(short):
            # No memory can be freed. Try anyway, since the needed size is only an estimate.
            self._load(empty[0], model)

    def fill_homes(self) -> None:
        """Load further copies of wanted models into empty workers that were started with them."""
        for slot in list(self._free(SlotState.EMPTY)):
            home = slot.home_model
            if home and home in self._wanted and home in slot.loadable and self._has_memory(slot, home):
                self._load(slot, home)

    def _free(self, state: SlotState) -> Iterator[Slot]:
        return (slot for slot in self._slots if slot.state is state and slot.worker_id not in self._taken)

    def _able(self, state: SlotState, model: str) -> Iterator[Slot]:
        return (slot for slot in self._free(state) if model in slot.loadable and not self._is_too_small(slot, model))

    def _has_model(self, host_ids: Set[str]) -> bool:
        return any(slot.has_model or slot.worker_id in self.loads for slot in self._slots if slot.host_id in host_ids)

    def _has_memory(self, slot: Slot, model: str) -> bool:
        available = self._available_bytes.get(slot.host_id)
        return available is None or slot.loadable[model] <= available

    def _is_too_small(self, slot: Slot, model: str) -> bool:
        """Return True if the model would not fit on the slot's machine even if all other models there were unloaded."""
        return slot.checks_memory and slot.loadable[model] > self._most_bytes.get(slot.host_id, math.inf)

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
        """Return the rank of an idle slot; the lowest is unloaded first."""
        return not self._has_copy(slot), slot.idle_since_s, slot.worker_id

    def _patience(self, slot: Slot) -> tuple[bool, float, str]:
        """Return the rank of a slot in use. The lowest makes room first: one whose model is loaded elsewhere too, else the one
        whose model is wanted for the shortest time."""
        return not self._has_copy(slot), -self._wanted.get(slot.model or "", math.inf), slot.worker_id

    def _has_copy(self, slot: Slot) -> bool:
        return any(other.model == slot.model for other in self._free(SlotState.SERVING) if other is not slot)


def _most_bytes(slots: Sequence[Slot], available_bytes: Mapping[str, int]) -> dict[str, int]:
    """Return how much memory each host would have at most without any model, if that is known.

    It is unknown while a worker of the host loads or unloads, because part of that worker's memory is then neither available nor
    held.
    """
    changing = {slot.host_id for slot in slots if slot.state in (SlotState.LOADING, SlotState.LEAVING)}
    most_bytes = {host_id: num for host_id, num in available_bytes.items() if host_id not in changing}
    for slot in slots:
        if slot.host_id in most_bytes:
            most_bytes[slot.host_id] += slot.held_bytes
    return most_bytes


def gather_slots(
    workers: Iterable[AttachedWorker], stores: WorkerStores, keep_alive: KeepAlive, stays_until_s: Mapping[str, float]
) -> list[Slot]:
    """Return a slot for each worker that stays, first for those with a model, then for `stores.unloaded`.

    `stays_until_s` has the time until which a model keeps its slot, by worker id.
    """
    slots = []
    for worker in workers:
        if worker.phase is WorkerPhase.SERVING:
            info = worker.info
            slot = _slot(info.worker_id, stores, SlotState.SERVING, "" if stores.is_outdated(info) else info.model)
            since_s, until_s = keep_alive.idle_since_s(info.model), stays_until_s.get(info.worker_id, 0.0)
            slot = replace(slot, is_running=not worker.is_idle, idle_since_s=since_s, stays_until_s=until_s)
            slots.append(replace(slot, pages_bytes=info.kv_bytes))
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
        checks_memory=said.checks_memory,
        model=model,
        home_model=said.home_model,
    )


def _state(worker: UnloadedWorker) -> SlotState:
    if worker.loading is not None:
        return SlotState.LOADING
    return SlotState.LEAVING if worker.link is None else SlotState.EMPTY
