"""Which models the workers serve, in memory or to be loaded, and what has one come into memory or leave it.

Owns who waits for a model without a request. Which worker loads what is decided in model_placement.py. Knows nothing about
requests beyond that some wait for a model.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from collections.abc import Sequence as Seq
from typing import Any

from scheduler.counters import ModelCounters
from scheduler.errors import InvalidRequestError, ModelNotServedError, RequestError, UnavailableError
from scheduler.fair_queue import FairQueue
from scheduler.keep_alive import KeepAlive, TimerHandle, Timers
from scheduler.model_placement import NOTHING_MOVES, Placement, Slot, SlotState, place_models
from scheduler.sequence import Sequence
from scheduler.sequence_listener import SequenceListener
from scheduler.unloaded_workers import LoadLink, UnloadedWorker, UnloadedWorkers
from scheduler.worker_info import LoadableModels, WorkerInfo
from scheduler.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_stores import WorkerStores

Told = Callable[[RequestError | None], object]
"""Called once: with None when the model is in memory, else with why it will not be."""

# A model that was loaded keeps its slot for so many times as long as that took, while others wait for the slot.
STAY_PER_LOAD = 4.0
# Where the system kills who takes too much memory, no worker lives to say that a model is too large.
MAX_LOST_LOADS = 3


class ServedModels:
    def __init__(
        self,
        timers: Timers,
        workers: Mapping[str, AttachedWorker],
        waiting: FairQueue,
        keep_alive: KeepAlive,
        listener: SequenceListener,
        counters: ModelCounters,
        *,
        grace_s: float,
        detach: Callable[[AttachedWorker], object],
        fail: Callable[[Seq[Sequence], RequestError], object],
        on_changed: Callable[[], object],
    ) -> None:
        """`workers` are those that are attached with a model. One without any for `grace_s` has its requests failed."""
        self.unloaded = UnloadedWorkers(timers, grace_s=grace_s, on_forgotten=self._forget)
        self._timers = timers
        self._workers = workers
        self._waiting = waiting
        self._keep_alive = keep_alive
        self._listener = listener
        self._counters = counters
        self._grace_s = grace_s
        self._ends_of_grace: dict[str, TimerHandle] = {}
        """Of models whose last worker is gone, and none has come since."""
        self._detach = detach
        self._fail = fail
        self._on_changed = on_changed
        self._stores = WorkerStores()
        self._told: defaultdict[str, list[tuple[float, Told]]] = defaultdict(list)
        """Who waits for a model without a request, and since when."""
        self._stays_until_s: dict[str, float] = {}
        """By worker id, of the model that it has loaded."""
        self._num_lost_loads: Counter[str] = Counter()
        """Workers that were lost while they loaded a model, since it was last in memory."""
        self._tried_again: set[str] = set()
        """Models whose load has failed for want of memory, and for which another has left."""
        self._closed: frozenset[str] = frozenset()

    # ---- what there is

    def info(self, model: str) -> WorkerInfo:
        """Of the worker with the most pages for it; for no name, of the only model that workers were started with.

        Raises a RequestError where there is none.
        """
        if not self._workers and not self._stores:
            raise UnavailableError("no worker is attached", retry_after_s=2.0)
        model = model or self._only_model()
        if having := list(self._having(model)):
            return max(having, key=lambda worker: worker.info.limits.num_pages).info
        for _, loadable in self._stores.able(model):
            return loadable.info
        raise ModelNotServedError(f"model {model!r} is not served; served: {', '.join(sorted(self.names))}")

    @property
    def names(self) -> set[str]:
        return self._stores.names | {worker.info.model for worker in self._workers.values()}

    def num_able(self, model: str) -> int:
        """Workers that can load it, and have not."""
        having = {worker.info.worker_id for worker in self._having(model)}
        return sum(worker_id not in having for worker_id, _ in self._stores.able(model))

    def is_served(self, model: str) -> bool:
        """Some worker has it in memory."""
        return any(True for _ in self._having(model))

    def waiting_for(self, model: str) -> Iterator[Sequence]:
        """In the order in which they would be admitted."""
        if model not in self._waiting.models:
            return iter(())
        return (sequence for sequence in self._waiting if sequence.model == model)

    def takes_new(self, worker: AttachedWorker) -> bool:
        """Whether it may be given new sequences: not where its model is to leave."""
        return worker.info.worker_id not in self._closed and self._is_current(worker)

    # ---- what happens

    def keep_loaded(self, model: str, keep_alive_s: float | None, told: Told) -> None:
        """The model is to stay so long after its last request, and to come into memory unless that is no time at all.

        Raises a RequestError for a model that no worker has.
        """
        model = self.info(model).model
        self._keep_alive.wish(model, keep_alive_s)
        if keep_alive_s == 0 or self.is_served(model):
            told(None)
        else:
            self._told[model].append((self._timers.time(), told))

    def attached(self, info: WorkerInfo, store: LoadableModels) -> None:
        """A worker has come with its model in memory."""
        self._stores.put(info.worker_id, store)
        self._end_grace(info.model)
        self._keep_alive.restart(info.model)
        before = self.unloaded.pop(info.worker_id)
        if before is not None and before.loading == info.model:
            self._loaded(before)
        self._tried_again.discard(info.model)
        self._num_lost_loads.pop(info.model, None)
        self._tell(info.model, None)

    def attach_unloaded(self, worker_id: str, store: LoadableModels, link: LoadLink) -> UnloadedWorker:
        """A worker without a model opened a stream."""
        worker = self.unloaded.attach(worker_id, link)
        self.store_changed(worker_id, store)
        self._stores.set_exhausted(worker_id, False)
        return worker

    def detach_unloaded(self, worker: UnloadedWorker, *, is_lost: bool) -> None:
        """Its stream ended. A model whose load kills worker after worker is asked of no further one."""
        self.unloaded.detach(worker, is_lost=is_lost)
        model = worker.loading
        if is_lost and model is not None:
            self._num_lost_loads[model] += 1
            if self._num_lost_loads[model] >= MAX_LOST_LOADS:
                del self._num_lost_loads[model]
                reason = f"{MAX_LOST_LOADS} workers in a row were lost while they loaded {model!r}"
                self._fail_waiting(model, UnavailableError(reason, retry_after_s=5.0))
        self._on_changed()

    def store_changed(self, worker_id: str, store: LoadableModels) -> None:
        if worker_id in self._workers or worker_id in self.unloaded:
            self._stores.put(worker_id, store)
            self._on_changed()

    def memory_changed(self, worker_id: str, available_bytes: int | None) -> None:
        self._stores.set_available_bytes(worker_id, available_bytes)

    def detached(self, info: WorkerInfo) -> None:
        """A worker that had the model in memory is gone, perhaps to be back without."""
        if info.worker_id not in self.unloaded:
            self._stores.pop(info.worker_id)
        if not self.is_served(info.model):
            self._begin_grace(info.model)

    def dismiss(self, worker: UnloadedWorker) -> None:
        """A worker without a model shall end, and is not expected back."""
        self.unloaded.dismiss(worker)
        for model in self._stores.pop(worker.worker_id).models:
            self._begin_grace(model)
        self._on_changed()

    def dismiss_unloaded(self) -> None:
        """The workers without a model that nobody waits for."""
        wanted = self._wanted
        for worker in self.unloaded:
            if not wanted & self._stores[worker.worker_id].models.keys():
                self.dismiss(worker)

    def load_failed(self, worker: UnloadedWorker, reason: str, *, out_of_memory: bool) -> None:
        """Others may still be loading it, and another model may make room for it; else nobody waits any longer."""
        model, worker.loading = worker.loading or "", None
        self._counters.num_failed_loads += 1
        if any(other.loading == model for other in self.unloaded):
            return
        if out_of_memory and model not in self._tried_again and self._has_idle_neighbour(worker):
            self._stores.set_exhausted(worker.worker_id, True)
            self._tried_again.add(model)
        else:
            self._tried_again.discard(model)
            self._fail_waiting(model, UnavailableError(f"{model!r} cannot be loaded: {reason}", retry_after_s=5.0))
        self._on_changed()

    def move(self) -> None:
        """Out of memory where nobody uses them or others need the place, into it where somebody waits."""
        for worker in list(self._workers.values()):
            is_over = self._keep_alive.is_over(worker.info.model) or self._stores.is_outdated(worker.info)
            if is_over and worker.phase is WorkerPhase.SERVING and worker.is_idle:
                self._unload(worker)
        placement = self._place()
        self._closed = placement.closed
        for worker_id in placement.unloads:
            self._unload(self._workers[worker_id])
        for worker_id, model in placement.loads.items():
            self._load(self.unloaded[worker_id], model)

    # ---- how

    @property
    def _wanted(self) -> Set[str]:
        """Models that somebody waits for."""
        return self._waiting.models | self._told.keys()

    def _place(self) -> Placement:
        wanted = self._wanted
        in_memory = {worker.info.model for worker in self._workers.values() if self._is_current(worker)}
        may_fill = any(self._stores[unloaded.worker_id].home_model in wanted for unloaded in self.unloaded)
        if wanted <= in_memory and not may_fill:
            return NOTHING_MOVES
        since_s = {model: self._wanted_since_s(model) for model in wanted}
        return place_models(list(self._slots()), since_s, self._stores.available_bytes, self._timers.time())

    def _slots(self) -> Iterator[Slot]:
        for worker_id, worker in self._workers.items():
            model = worker.info.model
            if worker.phase is not WorkerPhase.SERVING:
                continue
            yield self._slot(
                worker_id,
                SlotState.SERVING,
                model="" if self._stores.is_outdated(worker.info) else model,
                is_running=not worker.is_idle,
                idle_since_s=self._keep_alive.idle_since_s(model),
                stays_until_s=self._stays_until_s.get(worker_id, 0.0),
            )
        for unloaded in self.unloaded:
            if unloaded.loading is not None and not unloaded.is_lost:
                yield self._slot(unloaded.worker_id, SlotState.LOADING, model=unloaded.loading)
            elif not unloaded.is_lost:
                state = SlotState.LEAVING if unloaded.link is None else SlotState.EMPTY
                yield self._slot(unloaded.worker_id, state)

    def _slot(self, worker_id: str, state: SlotState, **fields: Any) -> Slot:
        store = self._stores[worker_id]
        return Slot(
            worker_id=worker_id,
            host_id=store.host_id,
            state=state,
            loadable={name: model.needed_bytes for name, model in store.models.items()},
            home_model=store.home_model,
            **fields,
        )

    def _wanted_since_s(self, model: str) -> float:
        since_s = [since_s for since_s, _ in self._told.get(model, ())]
        if model in self._waiting.models:
            since_s.append(self._waiting.waiting_since_s(model))
        return min(since_s)

    def _load(self, worker: UnloadedWorker, model: str) -> None:
        assert worker.link is not None, "only a worker with a stream is empty"
        worker.loading, worker.loading_since_s = model, self._timers.time()
        worker.link.send_load(model, self._stores[worker.worker_id].models[model].info.model_digest)
        for sequence in self.waiting_for(model):
            self._listener.model_loading(sequence, worker.worker_id)

    def _loaded(self, worker: UnloadedWorker) -> None:
        now_s = self._timers.time()
        load_s = now_s - worker.loading_since_s
        self._stays_until_s[worker.worker_id] = now_s + STAY_PER_LOAD * load_s
        self._counters.num_loads += 1
        self._counters.load_s += load_s
        for sequence in self.waiting_for(worker.loading or ""):
            self._listener.model_loaded(sequence, worker.worker_id, load_s)

    def _unload(self, worker: AttachedWorker) -> None:
        model = worker.info.model
        worker.link.send_unload()
        self.unloaded.expect(worker.info.worker_id)
        self._stays_until_s.pop(worker.info.worker_id, None)
        self._counters.num_unloads += 1
        self._detach(worker)
        if not self.is_served(model):
            self._keep_alive.forget_wish(model)

    def _having(self, model: str) -> Iterator[AttachedWorker]:
        """In memory, and not for those alone who have it already."""
        having = (worker for worker in self._workers.values() if worker.info.model == model)
        return (worker for worker in having if self._is_current(worker))

    def _is_current(self, worker: AttachedWorker) -> bool:
        """It stays, and what it has in memory is what the files are now."""
        return worker.phase is WorkerPhase.SERVING and not self._stores.is_outdated(worker.info)

    def _has_idle_neighbour(self, worker: UnloadedWorker) -> bool:
        host_id = self._stores[worker.worker_id].host_id
        neighbours = [each for each in self._workers.values() if self._stores[each.info.worker_id].host_id == host_id]
        return any(each.is_idle and each.info.model not in self._waiting.models for each in neighbours)

    def _only_model(self) -> str:
        """That workers were started with; what else they could load was not meant by someone who gives no name."""
        names = sorted(self._stores.home_models or self.names)
        if len(names) == 1:
            return names[0]
        raise InvalidRequestError(f"name a model, there are several: {', '.join(names)}")

    def _forget(self, worker_id: str) -> None:
        """It has not come back."""
        for model in self._stores.pop(worker_id).models:
            self._fail_orphans(model)
        self._on_changed()

    def _begin_grace(self, model: str) -> None:
        """Anew, where it had begun."""
        self._end_grace(model)
        self._ends_of_grace[model] = self._timers.call_later(self._grace_s, lambda: self._fail_orphans(model))

    def _end_grace(self, model: str) -> None:
        if (timer := self._ends_of_grace.pop(model, None)) is not None:
            timer.cancel()

    def _fail_orphans(self, model: str) -> None:
        self._end_grace(model)
        if not any(True for _ in self._stores.able(model)):
            reason = f"no worker has served {model!r} for {self._grace_s:g} s"
            self._fail_waiting(model, UnavailableError(reason, retry_after_s=5.0))

    def _fail_waiting(self, model: str, error: RequestError) -> None:
        """Unless a worker serves it after all."""
        if not self.is_served(model):
            self._tell(model, error)
            self._fail(list(self.waiting_for(model)), error)

    def _tell(self, model: str, outcome: RequestError | None) -> None:
        for _, told in self._told.pop(model, []):
            told(outcome)
