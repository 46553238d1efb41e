"""The workers as slots for models: what model_placement.py decides about, gathered from those who know it. Changes nothing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scheduler.keep_alive import KeepAlive
from scheduler.models.model_placement import Slot, SlotState
from scheduler.models.unloaded_workers import UnloadedWorker
from scheduler.models.worker_stores import WorkerStores
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_info import LoadableModels


def slots_with_models(
    workers: Iterable[AttachedWorker],
    stores: WorkerStores,
    keep_alive: KeepAlive,
    stays_until_s: Mapping[str, float],
) -> Iterator[Slot]:
    """Of workers that stay. `stays_until_s` says by worker id how long a model keeps its slot."""
    for worker in workers:
        worker_id, model = worker.info.worker_id, worker.info.model
        if worker.phase is WorkerPhase.SERVING:
            yield _slot(
                worker_id,
                stores[worker_id],
                SlotState.SERVING,
                model="" if stores.is_outdated(worker.info) else model,
                is_running=not worker.is_idle,
                idle_since_s=keep_alive.idle_since_s(model),
                stays_until_s=stays_until_s.get(worker_id, 0.0),
            )


def slots_without(workers: Iterable[UnloadedWorker], stores: WorkerStores) -> Iterator[Slot]:
    """Of workers that have no model in memory yet, or no more."""
    for worker in workers:
        if not worker.is_lost:
            yield _slot(worker.worker_id, stores[worker.worker_id], _state(worker), model=worker.loading)


def _state(worker: UnloadedWorker) -> SlotState:
    if worker.loading is not None:
        return SlotState.LOADING
    return SlotState.LEAVING if worker.link is None else SlotState.EMPTY


def _slot(worker_id: str, store: LoadableModels, state: SlotState, **fields: Any) -> Slot:
    return Slot(
        worker_id=worker_id,
        host_id=store.host_id,
        state=state,
        loadable={name: model.needed_bytes for name, model in store.models.items()},
        home_model=store.home_model,
        **fields,
    )
