"""Tasks that work in the background of a process: none of them ends without a word, and none leaves undone what it is there for.

`keep_running` is for work that serves the whole process or connection: when it raises, that is logged and it begins again.
`end_tasks` is how tasks are ended, whoever started them. Tasks whose failure must end something else are awaited by that.
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
    """Run `work` until it returns or the task is cancelled, and run it again whenever it raises.

    It begins again after 0.1 s, and after twice as long each time that it fails sooner than `longest_delay_s` after its begin,
    up to `longest_delay_s`. `name` says in the log whose failure it was.
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
            # The traceback once: a failure that goes on is one line for each try.
            logger.error("background task failed", exc_info=repr(error) != last_failure, extra=told)
            last_failure = repr(error)
        await asyncio.sleep(delay_s)
        delay_s *= 2


async def tell_when_held(limit_s: float = HELD_LIMIT_S) -> None:
    """Until cancelled, write to stderr where every thread is whenever the event loop is held for longer than `limit_s`.

    A thread without the interpreter's lock does it, so that it works whatever holds the loop. For a whole process, once.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(limit_s)
            await asyncio.sleep(limit_s / 10)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def end_tasks(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks and wait until they have ended. What fails on its way out is logged.

    The failure of a task that had ended before is left to whoever awaits it.
    """
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in running:
        report_failure(task)


def report_failure(task: "asyncio.Task[Any]") -> None:
    """Log why the task failed, if it did. Also a callback for `add_done_callback`, where nobody awaits the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background task failed", exc_info=error, extra={"task": task.get_name(), "reason": repr(error)})
