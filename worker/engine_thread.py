"""The one thread on which the engine runs, so that the event loop answers while a step is computed.

Owns the order: what is asked for runs one after the other; and the engine, which is there while its model is in memory. Knows
nothing about sessions.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from worker.errors import StepError
from worker.freed_memory import return_freed_memory
from worker.step import Step, StepResult

T = TypeVar("T")


class StepRunner(Protocol):
    """An engine as a session sees it: the real one, or an instant one in tests. Called on the engine's thread only."""

    def run_step(self, step: Step) -> StepResult: ...

    def reset(self) -> None:
        """Forget all sequences."""


Reload = Callable[[str], StepRunner]
"""Makes the engine again, of the model with this digest. Raises StartError, ModelError, or whatever the machine is out of."""


class NoModel:
    """A `StepRunner` in the engine's place while the model is not in memory."""

    def run_step(self, step: Step) -> StepResult:
        raise StepError("a step came while no model is in memory")

    def reset(self) -> None:
        pass


class EngineThread:
    def __init__(self, engine: StepRunner, reload: Reload) -> None:
        self._engine = engine
        self._reload = reload
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def run(self, work: Callable[[StepRunner], T]) -> T:
        """Returns once this work, which is done on the engine's thread, has ended."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._engine)

    async def reset(self) -> None:
        """Returns once what still runs has ended, and the engine has forgotten all sequences."""
        await self.run(lambda engine: engine.reset())

    async def load(self, digest: str) -> None:
        """The model into memory, if it is not there."""
        if isinstance(self._engine, NoModel):
            self._engine = await self.run(lambda _: self._reload(digest))

    async def unload(self) -> None:
        """The model, its pages and what was computed with them are gone, their memory is the machine's again."""
        await self.reset()
        self._engine = NoModel()
        gc.collect()  # It refers to itself in circles.
        return_freed_memory()

    def close(self) -> None:
        """Waits for what runs."""
        self._thread.shutdown()
