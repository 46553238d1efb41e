"""The loading and unloading of models: commands to workers, and reactions to their reports.

model_placement.py decides which worker loads which model. model_waiters.py has the requests that wait for a model, and fails them.
"""

from pagoda.wire.load_progress import LoadProgress
from scheduler.context import SchedulerContext
from scheduler.keep_alive import KeepAlive
from scheduler.lifecycle import Lifecycle
from scheduler.models.model_placement import NOTHING_MOVES, Moves, gather_slots, place_models
from scheduler.models.model_waiters import ModelWaiters, OnOutcome
from scheduler.models.served_models import ServedModels
from scheduler.models.worker_stores import LoadLink, UnloadedWorker, WorkerStores
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_info import WorkerInfo, WorkerStore

# A loaded model keeps its slot for this many times its load time, even if other models wait for the slot.
STAY_PER_LOAD = 4.0


class ModelLoading:
    def __init__(
        self, context: SchedulerContext, lifecycle: Lifecycle, keep_alive: KeepAlive, *, grace_s: float
    ) -> None:
        """Create the part. A worker between two streams, or any worker of a model that lost its last one, has `grace_s` to come."""
        self.stores = WorkerStores(context.clock, grace_s=grace_s, on_forgotten=self._fail_orphans)
        self.served = ServedModels(context, self.stores)
        self._waiters = ModelWaiters(context, lifecycle, self.served, grace_s=grace_s)
        self._context = context
        self._keep_alive = keep_alive
        self._counters = context.counters.models
        self._stays_until_s: dict[str, float] = {}
        """Time until which the model of each worker keeps its slot, by worker id."""
        self._tried_again: set[str] = set()
        """Models whose load failed for lack of memory, and for which another model was unloaded."""
        self._closed: frozenset[str] = frozenset()

    def takes_new(self, worker: AttachedWorker) -> bool:
        """Return True if the worker may admit new sequences. It may not if its model is about to be unloaded."""
        return worker.info.worker_id not in self._closed and self.served.is_current(worker)

    def keep_loaded(
        self, model: str, keep_alive_s: float | None, on_outcome: OnOutcome, *, only_prolongs: bool = False
    ) -> None:
        """Set the model's keep-alive, and load the model unless that is 0. `on_outcome` is called once with the result.

        Raises a RequestError if no worker has the model.
        """
        model = self.served.info_for_request(model).model
        self._keep_alive.set_keep_alive(model, keep_alive_s, only_prolongs=only_prolongs)
        if keep_alive_s == 0 or self.served.is_served(model):
            on_outcome(None)
        else:
            self._waiters.add_waiter(model, on_outcome)
            self._context.wake()

    # ---- workers

    def add_loaded_worker(self, info: WorkerInfo, store: WorkerStore) -> None:
        """Add a worker that attached with a loaded model."""
        before = self.stores.attach_loaded(info.worker_id, store)
        self._keep_alive.restart_idle_timer(info.model)
        if before is not None and before.loading == info.model:
            self._record_load(before)
        self._tried_again.discard(info.model)
        self._waiters.record_in_memory(info.model)

    def remove_loaded_worker(self, info: WorkerInfo) -> None:
        """Note that a worker with a loaded model is gone. It may come back without the model."""
        self.stores.detach_loaded(info.worker_id)
        if not self.served.is_served(info.model):
            self._waiters.begin_grace(info.model)

    def add_unloaded_worker(self, worker_id: str, store: WorkerStore, link: LoadLink) -> UnloadedWorker:
        """Add a worker that attached without a model."""
        worker = self.stores.attach_unloaded(worker_id, store, link)
        self._context.wake()
        return worker

    def remove_unloaded_worker(self, worker: UnloadedWorker, *, is_lost: bool) -> None:
        """Note that the stream of a worker without a model ended."""
        self.stores.detach_unloaded(worker, is_lost=is_lost)
        if is_lost and worker.loading is not None:
            self._waiters.record_lost_load(worker.loading)
        self._context.wake()

    def set_worker_store(self, worker_id: str, store: WorkerStore) -> None:
        """Set the models that a worker can load now."""
        if worker_id in self.stores:
            self.stores.set_store(worker_id, store)
            self._context.wake()

    def dismiss_unloaded_worker(self, worker: UnloadedWorker) -> None:
        """Dismiss a worker without a model, and do not expect it back."""
        for model in self.stores.dismiss_unloaded(worker).infos:
            self._waiters.begin_grace(model)
        self._context.wake()

    def dismiss_unwanted_unloaded(self) -> None:
        """Dismiss the workers without a model that can load no model that is wanted."""
        wanted = self._waiters.models
        for worker in list(self.stores.unloaded.values()):
            if not wanted & self.stores[worker.worker_id].infos.keys():
                self.dismiss_unloaded_worker(worker)

    def _fail_orphans(self, store: WorkerStore) -> None:
        """Fail the requests that only a worker with this store could serve, because it did not come back in time."""
        for model in store.infos:
            self._waiters.fail_orphans(model)
        self._context.wake()

    # ---- models

    def record_failed_load(
        self, worker: UnloadedWorker, reason: str, *, out_of_memory: bool, permanent: bool = False
    ) -> None:
        """Fail the requests that wait for the model, unless another worker loads it, or unloading another model allows a retry."""
        model, worker.loading = worker.loading or "", None
        self._counters.num_failed_loads += 1
        if any(other.loading == model for other in self.stores.unloaded.values()):
            return
        if out_of_memory and model not in self._tried_again and self._has_idle_neighbour(worker):
            self.stores.set_host_exhausted(worker.worker_id)
            self._tried_again.add(model)
        else:
            self._tried_again.discard(model)
            self._waiters.fail_load(model, reason, permanent=permanent)
        self._context.wake()

    def move_models(self) -> list[AttachedWorker]:
        """Unload models that are unused or must make room, and load models that are wanted.

        Return the workers that unload: each ends its stream, and comes back without a model.
        """
        unloading = [worker for worker in self._context.workers.values() if self._is_to_leave(worker)]
        for worker in unloading:
            self._send_unload(worker)
        moves = self._decide_moves()
        self._closed = moves.closed
        for worker_id in moves.unloads:
            self._send_unload(self._context.workers[worker_id])
            unloading.append(self._context.workers[worker_id])
        for model, lack in moves.refused.items():
            self._counters.num_failed_loads += 1
            self._tried_again.discard(model)
            self._waiters.fail_load(model, lack.describe(model), permanent=False)
        for worker_id, model in moves.loads.items():
            self._send_load(self.stores.unloaded[worker_id], model)
        return unloading

    def _is_to_leave(self, worker: AttachedWorker) -> bool:
        if not worker.is_idle or worker.phase is not WorkerPhase.SERVING:
            return False
        return self._keep_alive.is_expired(worker.info.model) or self.stores.is_outdated(worker.info)

    def _decide_moves(self) -> Moves:
        wanted = self._waiters.models
        if not wanted:
            return NOTHING_MOVES
        may_fill = any(self.stores[worker_id].loadable.home_model in wanted for worker_id in self.stores.unloaded)
        if wanted <= self.served.in_memory and not may_fill:
            return NOTHING_MOVES
        since_s = {model: self._waiters.waited_for_since_s(model) for model in wanted}
        slots = gather_slots(self._context.workers.values(), self.stores, self._keep_alive, self._stays_until_s)
        return place_models(slots, since_s, self._spare_bytes(), self._context.clock.time())

    def available_bytes(self, worker: AttachedWorker) -> int | None:
        """Return the available memory of a worker's machine, if it is known."""
        return self.stores.available_bytes.get(self.stores[worker.info.worker_id].loadable.host_id)

    def _spare_bytes(self) -> dict[str, int]:
        """Return the free memory of each host without what the pages of loaded models may still take, as far as it is known."""
        spare_bytes = dict(self.stores.available_bytes)
        for worker in self._context.workers.values():
            host_id = self.stores[worker.info.worker_id].loadable.host_id
            if host_id in spare_bytes:
                spare_bytes[host_id] = max(0, spare_bytes[host_id] - worker.growth_bytes)
        return spare_bytes

    def _send_load(self, worker: UnloadedWorker, model: str) -> None:
        assert worker.link is not None, "only a worker with a stream is empty"
        worker.loading, worker.loading_since_s = model, self._context.clock.time()
        worker.progress = LoadProgress()
        worker.link.send_load(model, self.stores[worker.worker_id].infos[model].model_digest)
        for sequence in self._context.waiting.of_model(model):
            self._context.sequence_listener.model_loading(sequence, worker.worker_id)

    def _record_load(self, worker: UnloadedWorker) -> None:
        now_s = self._context.clock.time()
        load_s = now_s - worker.loading_since_s
        self._stays_until_s[worker.worker_id] = now_s + STAY_PER_LOAD * load_s
        self._counters.num_loads += 1
        self._counters.load_s += load_s
        for sequence in self._context.waiting.of_model(worker.loading or ""):
            self._context.sequence_listener.model_loaded(sequence, worker.worker_id, load_s)

    def _send_unload(self, worker: AttachedWorker) -> None:
        model = worker.info.model
        worker.unload()
        self.stores.expect_unloaded(worker.info.worker_id)
        self._stays_until_s.pop(worker.info.worker_id, None)
        self._counters.num_unloads += 1
        if not self.served.is_served(model):
            self._keep_alive.reset_keep_alive(model)

    def _has_idle_neighbour(self, worker: UnloadedWorker) -> bool:
        host_id = self.stores[worker.worker_id].loadable.host_id
        neighbours = [
            each
            for each in self._context.workers.values()
            if self.stores[each.info.worker_id].loadable.host_id == host_id
        ]
        return any(each.is_idle and each.info.model not in self._context.waiting.models for each in neighbours)
