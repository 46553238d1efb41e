"""The one thread on which the engine runs, so that the event loop answers while a step is computed.

Owns the order: what is asked for runs one after the other. Knows nothing about sessions.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from worker.step import Step, StepResult


class StepRunner(Protocol):
    """An engine as a session sees it: the real one, or an instant one in tests. Called on the engine's thread only."""

    def run_step(self, step: Step) -> StepResult: ...

    def reset(self) -> None:
        """Forget all sequences."""


class EngineThread:
    def __init__(self, engine: StepRunner) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def run_step(self, step: Step) -> StepResult:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.run_step, step)

    async def reset(self) -> None:
        """Returns once a step that still runs has ended, and the engine has forgotten all sequences."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.reset)

    def close(self) -> None:
        """Waits for the step that runs."""
        self._thread.shutdown()
