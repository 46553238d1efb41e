"""Finds the pages whose memory no sequence needs, so that the workers can return it to their machines.

A page that stays free for an interval needs no memory, nor does a cached block that was not used for `prefix_idle_s`. If a
machine is short of memory, cached blocks are dropped after an interval.
"""

import math
from collections.abc import Callable

from scheduler.context import SchedulerContext
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase

INTERVAL_S = 10.0
SHORT_BYTES = 500_000_000
"""Available memory of a machine below which it is short of memory."""


class IdleMemory:
    """A timer that collects the idle pages of all workers."""

    def __init__(
        self,
        context: SchedulerContext,
        prefix_idle_s: float,
        available_bytes: Callable[[AttachedWorker], int | None],
    ) -> None:
        """Look for idle pages at regular times. `available_bytes` returns the available memory of a worker's machine, if known."""
        self._context = context
        self._max_age = max(1, math.ceil(prefix_idle_s / INTERVAL_S)) if prefix_idle_s < math.inf else None
        self._available_bytes = available_bytes
        if self._max_age is not None:
            self._wait()

    def _wait(self) -> None:
        self._context.clock.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        """Collect idle pages of each worker on a processor; a device's memory is not the machine's."""
        assert self._max_age is not None
        self._wait()
        for worker in self._context.workers.values():
            is_serving = worker.phase is WorkerPhase.SERVING and worker.info.device.startswith("cpu")
            if is_serving and worker.collect_idle_pages(1 if self._is_short(worker) else self._max_age):
                self._context.wake()

    def _is_short(self, worker: AttachedWorker) -> bool:
        """Return True if the worker's machine is short of memory. A machine with little memory has little KV memory, too."""
        available_bytes = self._available_bytes(worker)
        return available_bytes is not None and available_bytes < min(SHORT_BYTES, worker.info.kv_bytes // 4)
