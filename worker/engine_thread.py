"""The one thread on which the engine runs, so that the event loop answers while a step is computed.

Owns the order: what is asked for runs one after the other; and the engine, which is there while its model is in memory. Knows
nothing about sessions.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from worker.errors import StepError
from worker.memory import return_free_memory
from worker.step import Step, StepResult

Result = TypeVar("Result")


class StepRunner(Protocol):
    """An engine as a session sees it: the real one, or an instant one in tests. Called on the engine's thread only."""

    def run_step(self, step: Step) -> StepResult: ...

    def reset(self) -> None:
        """Forget all sequences."""


Reload = Callable[[str], StepRunner]
"""Makes the engine again, of the model with this digest. Raises StartError, ModelError, or whatever the machine is out of."""


class EngineThread:
    def __init__(self, engine: StepRunner, reload: Reload) -> None:
        self._engine: StepRunner | None = engine
        self._reload = reload
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def run_step(self, step: Step) -> StepResult:
        return await self._run(lambda: self._run_step(step))

    async def reset(self) -> None:
        """Returns once a step that still runs has ended, and the engine has forgotten all sequences."""
        await self._run(self._reset)

    async def load(self, digest: str) -> None:
        """The model into memory, if it is not there."""
        await self._run(lambda: self._load(digest))

    async def unload(self) -> None:
        """The model, its pages and what was computed with them are gone, their memory is the machine's again."""
        await self._run(self._unload)

    def close(self) -> None:
        """Waits for the step that runs."""
        self._thread.shutdown()

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _run_step(self, step: Step) -> StepResult:
        if self._engine is None:
            raise StepError("a step came while no model is in memory")
        return self._engine.run_step(step)

    def _reset(self) -> None:
        if self._engine is not None:
            self._engine.reset()

    def _load(self, digest: str) -> None:
        if self._engine is None:
            self._engine = self._reload(digest)
            return_free_memory()

    def _unload(self) -> None:
        self._engine = None
        return_free_memory()
