"""The attached workers: they attach and detach with their streams, leave, and are dismissed. No sequence is lost by that.

Loading and unloading of their models is in models/model_loading.py.
"""

from collections.abc import Mapping, Set
from collections.abc import Sequence as Seq
from types import MappingProxyType

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.context import SchedulerContext
from scheduler.errors import SequenceFailedError
from scheduler.faults.leaving import movable
from scheduler.faults.suspects import Suspects
from scheduler.lifecycle import Lifecycle
from scheduler.listeners import Interruption
from scheduler.models.model_loading import ModelLoading
from scheduler.models.worker_stores import LoadLink, UnloadedWorker
from scheduler.steps.step_decision import PrefillLimits
from scheduler.steps.step_plan import WorkerLink
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_info import WorkerInfo, WorkerStore, only_itself


class WorkerRegistry:
    """The workers that are attached with a model. Only `Attachments` uses it; everything else reads its `workers`."""

    def __init__(self, *, max_lease_steps: int, prefill_limits: PrefillLimits) -> None:
        self._max_lease_steps = max_lease_steps
        self._prefill_limits = prefill_limits
        self._workers: dict[str, AttachedWorker] = {}
        self._num_sessions = 0
        self.workers: Mapping[str, AttachedWorker] = MappingProxyType(self._workers)

    def add_worker(
        self, info: WorkerInfo, link: WorkerLink, held_blocks: Seq[tuple[PageId, BlockHash]]
    ) -> AttachedWorker:
        """Add a worker. Raises ValueError if the held blocks are impossible."""
        self._num_sessions += 1
        worker = AttachedWorker(
            info,
            session_id=self._num_sessions,
            link=link,
            held_blocks=held_blocks,
            max_lease_steps=self._max_lease_steps,
            prefill_limits=self._prefill_limits,
        )
        self._workers[info.worker_id] = worker
        return worker

    def remove_worker(self, worker: AttachedWorker) -> bool:
        """Remove a worker. Return False if it is not there, because another stream of the same worker has replaced it."""
        if self._workers.get(worker.info.worker_id) is not worker:
            return False
        del self._workers[worker.info.worker_id]
        return True


class Attachments:
    def __init__(
        self,
        context: SchedulerContext,
        registry: WorkerRegistry,
        lifecycle: Lifecycle,
        loading: ModelLoading,
        suspects: Suspects,
    ) -> None:
        """Take over the workers: `registry` is the one behind `context.workers`."""
        self._context = context
        self._registry = registry
        self._lifecycle = lifecycle
        self._loading = loading
        self._suspects = suspects

    # ---- beginning and end of streams

    def attach_worker(
        self,
        info: WorkerInfo,
        link: WorkerLink,
        held_blocks: Seq[tuple[PageId, BlockHash]] = (),
        store: WorkerStore | None = None,
    ) -> AttachedWorker:
        """Attach a worker that opened a stream. An older stream of the same worker is detached, even if its socket is open.

        `held_blocks` are the blocks that its cache has kept. Without a store it can only load its present model again.
        Raises ValueError if the held blocks are impossible.
        """
        if (old := self._context.workers.get(info.worker_id)) is not None:
            self.detach_worker(old, is_alive=old.info.epoch == info.epoch)
        worker = self._registry.add_worker(info, link, held_blocks)
        self._context.cache_listener.worker_attached(worker)
        self._loading.add_loaded_worker(info, store or only_itself(info))
        self._context.wake()
        return worker

    def attach_unloaded_worker(self, worker_id: str, store: WorkerStore, link: LoadLink) -> UnloadedWorker:
        """Attach a worker without a model that opened a stream."""
        if worker_id in self._context.workers:
            self.detach_worker(self._context.workers[worker_id])
        return self._loading.add_unloaded_worker(worker_id, store, link)

    def detach_unloaded_worker(self, worker: UnloadedWorker, *, is_lost: bool) -> None:
        """Note that the stream of a worker without a model ended. If it is not lost, it will come back with a model."""
        self._loading.remove_unloaded_worker(worker, is_lost=is_lost)

    def let_worker_leave(self, worker: AttachedWorker | UnloadedWorker) -> None:
        """Let a worker leave. It is dismissed when its sequences have moved to other workers or ended."""
        if isinstance(worker, UnloadedWorker):
            self._loading.dismiss_unloaded_worker(worker)
        elif worker.phase is WorkerPhase.SERVING:
            worker.start_leaving()
        self._context.wake()

    def detach_worker(self, worker: AttachedWorker, *, is_alive: bool = False) -> None:
        """Detach a worker whose stream ended. Its sequences keep their tokens and wait for another one. A second call does nothing.

        Unless the worker is known to be alive or to leave, its sequences may have caused its death.
        """
        if not self._registry.remove_worker(worker):
            return
        self._context.cache_listener.worker_detached(worker)
        has_died = not is_alive and worker.phase is WorkerPhase.SERVING
        convicted = self._suspects.record_death(worker) if has_died else None
        for sequence in list(worker.running):
            self._lifecycle.interrupt_sequence(worker, sequence, Interruption.WORKER_LOST)
        if convicted is not None:
            deaths = (
                f"{convicted.deaths.count} workers in a row were lost while they computed this request, the last one while it "
                "computed nothing else"
            )
            self._lifecycle.fail_sequences([convicted], SequenceFailedError(deaths))
        self._loading.remove_loaded_worker(worker.info)
        self._context.wake()
        self._lifecycle.open_requests.deliver_events()

    # ---- leaving

    def move_sequences_off(self) -> None:
        """Interrupt sequences of leaving workers, as many as the other workers have room for."""
        leaving = [worker for worker in self._context.workers.values() if worker.phase is WorkerPhase.LEAVING]
        for worker in leaving:
            for sequence in movable(worker, self._context.workers.values()):
                self._lifecycle.interrupt_sequence(worker, sequence, Interruption.WORKER_LEAVES)

    def dismiss_leaving_workers(self) -> None:
        """Dismiss the leaving workers that are idle."""
        for worker in self._context.workers.values():
            if worker.phase is WorkerPhase.LEAVING and worker.is_idle:
                worker.dismiss()

    def dismiss_unwanted_workers(self, wanted: Set[str]) -> None:
        """Dismiss the idle workers whose model is not wanted, because this scheduler drains."""
        for worker in self._context.workers.values():
            if worker.is_idle and worker.info.model not in wanted:
                worker.dismiss()
        self._loading.dismiss_unwanted_unloaded()

    def dismiss_all_workers(self) -> None:
        """Dismiss all workers, because this scheduler shuts down. They attach to another one, or wait for the next."""
        for worker in self._context.workers.values():
            worker.dismiss()
        for unloaded in list(self._loading.stores.unloaded.values()):
            self._loading.dismiss_unloaded_worker(unloaded)
