"""The one thread on which the engine runs, so that the event loop stays responsive while a step is computed.

It runs submitted work in order, one piece after the other, and owns the engine, which exists while its model is loaded.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pagoda.process.resources import return_freed_memory
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from worker.errors import StepError
from worker.steps.step import Step

if TYPE_CHECKING:
    # A worker without a model runs without numpy.
    from worker.steps.engine import BegunStep

T = TypeVar("T")


class StepRunner(Protocol):
    """The interface of an engine: the real one, or an instant fake in tests. Called on the engine's thread only."""

    @property
    def max_in_flight(self) -> int:
        """Maximum number of steps that are begun and not finished."""

    def begin_step(self, step: Step) -> "BegunStep": ...

    def finish_step(self, begun: "BegunStep") -> StepResult:
        """Wait for the step and return its result. Steps are finished in the order in which they were begun."""

    def reset(self) -> None:
        """Forget all sequences and all begun steps."""


class Loaded(NamedTuple):
    engine: StepRunner
    model: worker_pb2.LoadedModel


Load = Callable[[str, str], Loaded]
"""A function that loads the model of this name and digest. Raises StartError, ModelError, or a system error such as MemoryError."""


class NoModel:
    """A `StepRunner` that takes the engine's place while no model is loaded."""

    max_in_flight = 1

    def begin_step(self, step: Step) -> "BegunStep":
        raise StepError("cannot run a step: no model is loaded")

    def finish_step(self, begun: "BegunStep") -> StepResult:
        raise StepError("no step was begun")

    def reset(self) -> None:
        pass


class EngineThread:
    def __init__(self, loaded: Loaded | None, load: Load) -> None:
        self._engine: StepRunner = loaded.engine if loaded else NoModel()
        self.model = loaded.model if loaded else None
        """The loaded model; None if there is none."""
        self._load = load
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def run(self, work: Callable[[StepRunner], T]) -> T:
        """Run `work` on the engine's thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._engine)

    async def reset(self) -> None:
        """Wait for the running work and make the engine forget all sequences."""
        await self.run(lambda engine: engine.reset())

    async def load(self, name: str, digest: str) -> None:
        """Load the model; none may be loaded yet."""
        if self.model is not None:
            raise StepError(f"cannot load {name}: {self.model.name} is loaded and must be unloaded first")
        self._engine, self.model = await self.run(lambda _: self._load(name, digest))

    async def unload(self) -> None:
        """Unload the model, free its pages and return the memory to the machine."""
        await self.reset()
        self._engine, self.model = NoModel(), None
        self.release_memory()

    def release_memory(self) -> None:
        """Free unreferenced objects and return their memory to the machine."""
        gc.collect()  # An engine contains reference cycles.
        return_freed_memory()

    def close(self, *, wait: bool) -> None:
        """Stop the thread; if `wait` is true, wait for the running work."""
        self._thread.shutdown(wait=wait)
