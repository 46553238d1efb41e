"""The end of a tier's process: the first SIGTERM or SIGINT shuts it down gracefully, a second one immediately.

Some exit codes have a meaning for the supervisor of the processes.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable

DEVICE_LOST = 70
"""Exit code of a worker whose device has failed for that process. A new process can use the device again."""

EXIT_CODE_MEANINGS = {DEVICE_LOST: "its device was lost"}

logger = logging.getLogger(__name__)


def end_on_stop_signal() -> None:
    """Exit immediately on SIGTERM or SIGINT, for the time before anything needs a graceful end. `on_stop_signal` replaces it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


def on_stop_signal(begin: Callable[[], object]) -> None:
    """Call `begin` at the first SIGTERM or SIGINT. The second one ends the process with 128 plus the signal's number."""
    has_begun = False

    def on_signal(number: int) -> None:
        nonlocal has_begun
        if has_begun:
            logger.warning("second signal received; exiting now", extra={"signal": signal.Signals(number).name})
            os._exit(128 + number)
        has_begun = True
        begin()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
