"""A pool of confined processes of one kind. A process that is killed fails only its current request."""

import signal
import threading
import time

from gateway.confined.child import ChildEndedError, ConfinedChild, Reply

IDLE_S = 60.0
"""Seconds after which an idle process ends. One process always stays."""


class ConfinedPool:
    """Processes for several threads. A call blocks its thread until the answer, but does not hold Python's lock."""

    def __init__(self, module: str, arguments: tuple[float, ...], *, work: str, max_processes: int) -> None:
        """Take what ConfinedChild takes. No process is started yet."""
        self._module, self._arguments, self._work = module, arguments, work
        self._lock = threading.Lock()
        self._idle: list[ConfinedChild] = []
        self._places = threading.BoundedSemaphore(max_processes)

    def start_first_process(self) -> None:
        """Start the first process, so that the first request does not wait for it."""
        with self._lock:
            if not self._idle:
                self._idle.append(self._new_process())

    def ask(self, request: bytes) -> Reply:
        """Ask a process, and another one if it ended for any reason but its time limit, for example a lack of memory.

        Raises ChildEndedError if the second one ended too.
        """
        with self._places:
            try:
                return self._ask_one(request)
            except ChildEndedError as error:
                if error.status == -signal.SIGPROF:
                    raise
                return self._ask_one(request)

    def close_idle_processes(self) -> None:
        """End the idle processes. The others end after their current request, because their sockets are closed by then."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end_process()

    def _ask_one(self, request: bytes) -> Reply:
        process = self._take_process()
        reply = process.ask_process(request)
        self._return_process(process, reply)
        return reply

    def _take_process(self) -> ConfinedChild:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._new_process()

    def _new_process(self) -> ConfinedChild:
        return ConfinedChild(self._module, self._arguments, work=self._work)

    def _return_process(self, process: ConfinedChild, reply: Reply) -> None:
        process.idle_since_s = time.monotonic()
        with self._lock:
            self._idle += [] if reply.ends else [process]
            cold = self._idle[:-1] and self._idle[0].idle_since_s < process.idle_since_s - IDLE_S
            ended = [process] if reply.ends else [self._idle.pop(0)] if cold else []
        for each in ended:
            each.end_process()
