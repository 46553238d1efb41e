"""A wait for a condition for which there is no event; the test's own time limit is the deadline."""

import asyncio
from collections.abc import Callable


async def until(is_so: Callable[[], object]) -> None:
    """Return once `is_so` returns something true."""
    while not is_so():  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.01)
