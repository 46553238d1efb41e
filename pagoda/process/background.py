"""Background tasks, whose failures are logged and not lost.

`keep_running` is for work that serves a whole process or connection: if it raises, the error is logged and the work restarts.
`end_tasks` ends tasks. A task whose failure must end something else is awaited there instead.
"""

import asyncio
import faulthandler
import logging
from collections.abc import Callable, Coroutine
from typing import Any

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
HELD_LIMIT_S = 10.0

logger = logging.getLogger(__name__)


def keep_running(
    name: str, work: Callable[[], Coroutine[Any, Any, None]], *, longest_delay_s: float = LONGEST_DELAY_S
) -> "asyncio.Task[None]":
    """Run `work` until it returns or the task is cancelled, and restart it whenever it raises.

    The delay before a restart is 0.1 s. It doubles, up to `longest_delay_s`, each time that the work fails sooner than
    `longest_delay_s` after its start. `name` identifies the task in the log.
    """
    return asyncio.create_task(_keep_running(name, work, longest_delay_s), name=name)


async def _keep_running(name: str, work: Callable[[], Coroutine[Any, Any, None]], longest_delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    delay_s, last_failure = FIRST_DELAY_S, ""
    while True:
        begun_s = loop.time()
        try:
            return await work()
        except Exception as error:
            if loop.time() - begun_s > longest_delay_s:
                delay_s, last_failure = FIRST_DELAY_S, ""
            delay_s = min(delay_s, longest_delay_s)
            told = {"task": name, "reason": repr(error), "again_in_s": delay_s}
            # The traceback is logged once; a repeated failure is one line for each try.
            logger.error("background task failed", exc_info=repr(error) != last_failure, extra=told)
            last_failure = repr(error)
        await asyncio.sleep(delay_s)
        delay_s *= 2


async def tell_when_held(limit_s: float = HELD_LIMIT_S) -> None:
    """Write the stacks of all threads to stderr whenever the event loop is blocked for longer than `limit_s`; run until cancelled.

    A thread without the interpreter's lock writes them, so that it works whatever blocks the loop. Use it once per process.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(limit_s)
            await asyncio.sleep(limit_s / 10)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def end_tasks(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks and wait until they have ended. Log failures during cancellation.

    The failure of a task that had already ended is left to the code that awaits it.
    """
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in running:
        report_failure(task)


def report_failure(task: "asyncio.Task[Any]") -> None:
    """Log the task's failure, if it failed. Also usable with `add_done_callback` for a task that is not awaited."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background task failed", exc_info=error, extra={"task": task.get_name(), "reason": repr(error)})
