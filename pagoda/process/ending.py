"""How every tier's process ends: SIGTERM or SIGINT asks for an orderly end, a second one for an end at once.

Some exit codes have a meaning of their own, for whoever starts the processes.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable

DEVICE_LOST = 70
"""A worker whose device computes nothing more in that process: a new process finds it usable again."""

EXIT_CODE_MEANINGS = {DEVICE_LOST: "its device was lost"}

logger = logging.getLogger(__name__)


def end_on_stop_signal() -> None:
    """While nothing runs yet that would have to end first. `on_stop_signal` takes over."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


def on_stop_signal(begin: Callable[[], object]) -> None:
    """Call `begin` at the first one. The second ends the process as if the signal had killed it: with 128 + its number."""
    has_begun = False

    def on_signal(number: int) -> None:
        nonlocal has_begun
        if has_begun:
            logger.warning("ended by a second signal", extra={"signal": signal.Signals(number).name})
            os._exit(128 + number)
        has_begun = True
        begin()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
