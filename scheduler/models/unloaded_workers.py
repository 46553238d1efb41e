"""The workers that have no model in memory: their streams, and whom of them to wait for while they are between two.

Knows nothing about which model comes next and why.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from scheduler.clock import Timers


class LoadLink(Protocol):
    """The way to one worker without a model. The calls return at once."""

    def send_load(self, model: str, digest: str) -> None: ...

    def send_drain(self) -> None: ...


@dataclass(slots=True, eq=False)
class UnloadedWorker:
    worker_id: str
    session_id: int = 0
    link: LoadLink | None = None
    """None between two streams."""
    loading: str | None = None
    """The model that it was told to load; also while it is between the stream without and the one with it."""
    loading_since_s: float = 0.0
    is_lost: bool = False
    """Its stream broke off. It may be back."""

    @property
    def is_busy(self) -> bool:
        return self.loading is not None


class UnloadedWorkers:
    def __init__(self, timers: Timers, *, grace_s: float, on_forgotten: Callable[[str], object]) -> None:
        """One that has no stream for `grace_s` is forgotten, which is told with its id."""
        self._timers = timers
        self._grace_s = grace_s
        self._on_forgotten = on_forgotten
        self._workers: dict[str, UnloadedWorker] = {}
        self._num_sessions = 0

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[UnloadedWorker]:
        return iter(list(self._workers.values()))

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def __getitem__(self, worker_id: str) -> UnloadedWorker:
        return self._workers[worker_id]

    def expect(self, worker_id: str) -> None:
        """It has been told to unload, and will be back without a model."""
        self._forget_unless_back(UnloadedWorker(worker_id))

    def attach(self, worker_id: str, link: LoadLink) -> UnloadedWorker:
        self._num_sessions += 1
        worker = self._workers[worker_id] = UnloadedWorker(worker_id, self._num_sessions, link)
        return worker

    def detach(self, worker: UnloadedWorker, *, is_lost: bool) -> None:
        """Its stream ended: where it is not lost, it will be back with the model that it was told to load."""
        if self._workers.get(worker.worker_id) is worker:
            worker.link, worker.is_lost = None, is_lost
            self._forget_unless_back(worker)

    def dismiss(self, worker: UnloadedWorker) -> None:
        """It shall end its stream, and is not expected back."""
        if worker.link is not None:
            worker.link.send_drain()
        self._workers.pop(worker.worker_id, None)

    def pop(self, worker_id: str) -> UnloadedWorker | None:
        """It has a model in memory now. Returns what it was before, if it was here."""
        return self._workers.pop(worker_id, None)

    def _forget_unless_back(self, worker: UnloadedWorker) -> None:
        self._workers[worker.worker_id] = worker
        self._timers.call_later(self._grace_s, lambda: self._forget(worker))

    def _forget(self, worker: UnloadedWorker) -> None:
        if self._workers.get(worker.worker_id) is worker and worker.link is None:
            del self._workers[worker.worker_id]
            self._on_forgotten(worker.worker_id)
