"""The one thread on which the engine runs, so that the event loop answers while a step is computed.

Owns the order: what is asked for runs one after the other; and the engine, which is there while its model is in memory.
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
    """An engine as a session sees it: the real one, or an instant one in tests. Called on the engine's thread only."""

    @property
    def max_in_flight(self) -> int:
        """How many steps may be begun and not finished."""

    def begin_step(self, step: Step) -> "BegunStep": ...

    def finish_step(self, begun: "BegunStep") -> StepResult:
        """Wait for the result. Steps are finished in the order in which they were begun."""

    def reset(self) -> None:
        """Forget all sequences, and the steps that were begun."""


class Loaded(NamedTuple):
    engine: StepRunner
    model: worker_pb2.LoadedModel


Load = Callable[[str, str], Loaded]
"""Loads the model of this name and digest. Raises StartError, ModelError, or whatever the machine is out of."""


class NoModel:
    """A `StepRunner` in the engine's place while the model is not in memory."""

    max_in_flight = 1

    def begin_step(self, step: Step) -> "BegunStep":
        raise StepError("a step came while no model is in memory")

    def finish_step(self, begun: "BegunStep") -> StepResult:
        raise StepError("no step was begun")

    def reset(self) -> None:
        pass


class EngineThread:
    def __init__(self, loaded: Loaded | None, load: Load) -> None:
        self._engine: StepRunner = loaded.engine if loaded else NoModel()
        self.model = loaded.model if loaded else None
        """What is in memory."""
        self._load = load
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def run(self, work: Callable[[StepRunner], T]) -> T:
        """Returns once this work, which is done on the engine's thread, has ended."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._engine)

    async def reset(self) -> None:
        """Returns once what still runs has ended, and the engine has forgotten all sequences."""
        await self.run(lambda engine: engine.reset())

    async def load(self, name: str, digest: str) -> None:
        """Load the model; none may be loaded yet."""
        if self.model is not None:
            raise StepError(f"{self.model.name} is in memory and must be unloaded first")
        self._engine, self.model = await self.run(lambda _: self._load(name, digest))

    async def unload(self) -> None:
        """The model, its pages and what was computed with them are gone, their memory is the machine's again."""
        await self.reset()
        self._engine, self.model = NoModel(), None
        self.release_memory()

    def release_memory(self) -> None:
        """Of what nobody refers to any more."""
        gc.collect()  # An engine refers to itself in circles.
        return_freed_memory()

    def close(self, *, wait: bool) -> None:
        """Whether to wait for what runs."""
        self._thread.shutdown(wait=wait)
