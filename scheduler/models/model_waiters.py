"""Who waits for a model to come into memory: its sequences in the queue, and clients that want it there without a request."""

from collections import defaultdict
from collections.abc import Callable, Set

from scheduler.clock import Timers
from scheduler.errors import RequestError
from scheduler.queue.fair_queue import FairQueue
from scheduler.queue.lifecycle import Lifecycle

Told = Callable[[RequestError | None], object]
"""Called once: with None when the model is in memory, else with why it will not be."""


class ModelWaiters:
    def __init__(self, timers: Timers, waiting: FairQueue, lifecycle: Lifecycle) -> None:
        self._timers = timers
        self._waiting = waiting
        self._lifecycle = lifecycle
        self._told: defaultdict[str, list[tuple[float, Told]]] = defaultdict(list)
        """Those without a request, and since when they wait."""

    @property
    def models(self) -> Set[str]:
        """Those that somebody waits for."""
        return self._waiting.models | self._told.keys()

    def since_s(self, model: str) -> float:
        """Of the one that has waited longest for it; somebody does."""
        since_s = [since_s for since_s, _ in self._told.get(model, ())]
        if model in self._waiting.models:
            since_s.append(self._waiting.waiting_since_s(model))
        return min(since_s)

    def add(self, model: str, told: Told) -> None:
        """One without a request."""
        self._told[model].append((self._timers.time(), told))

    def tell(self, model: str, outcome: RequestError | None) -> None:
        """Those without a request wait no longer."""
        for _, told in self._told.pop(model, []):
            told(outcome)

    def fail(self, model: str, error: RequestError) -> None:
        """Nobody waits for it any longer."""
        self.tell(model, error)
        self._lifecycle.fail(list(self._waiting.of_model(model)), error)
        self._lifecycle.open.deliver()
