"""The loop of a confined process: it answers one request after another on the socket that is its standard input.

It ends when that socket is closed. The kernel enforces its limits: SIGPROF kills it if a request needs more processor time, and
memory beyond the limit is refused. It sees no secret: its environment has no settings, and it cannot open files.
"""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import orjson

GROWN_SHARE = 0.5
"""Share of the memory limit beyond which the process ends after its answer, so that the next request has all memory."""

Answer = Callable[[bytes], tuple[str, bytes]]
"""A function that returns the outcome of a request and its content."""


class PoisonedError(Exception):
    """The error of a request after which the process must end. It carries the answer."""

    def __init__(self, outcome: str, content: bytes) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.content = content


def serve_requests(answer: Answer, *, cpu_s: float, memory_bytes: int) -> None:
    """Answer requests within the limits. All that `answer` needs from files must be loaded before."""
    try:
        _serve(answer, cpu_s, memory_bytes)
    except MemoryError:
        signal.raise_signal(signal.SIGKILL)  # no memory even for the answer: end as if the kernel had killed it


def _serve(answer: Answer, cpu_s: float, memory_bytes: int) -> None:
    connection = Connection(os.dup(0))
    statm = _confine(memory_bytes)
    ends = False
    while not ends:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        began_s = time.process_time()
        try:
            outcome, content = answer(request)
        except PoisonedError as error:
            outcome, content, ends = error.outcome, error.content, True
        signal.setitimer(signal.ITIMER_PROF, 0)
        del request
        ends = ends or _resident_bytes(statm) > GROWN_SHARE * memory_bytes
        head = {"outcome": outcome, "cpu_s": time.process_time() - began_s, "ends": ends}
        try:
            connection.send_bytes(orjson.dumps(head))
            connection.send_bytes(content)
        except BrokenPipeError:
            return


def _confine(memory_bytes: int) -> int | None:
    """Limit memory and forbid opening files. Return the open /proc/self/statm, which has the process's size, or None without it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    statm = None
    with contextlib.suppress(OSError):  # Linux only, like the next one
        Path("/proc/self/oom_score_adj").write_text("1000")  # the kernel kills this process before the gateway
    with contextlib.suppress(OSError):
        statm = os.open("/proc/self/statm", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):  # macOS has the limit and refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    return statm


def _resident_bytes(statm: int | None) -> int:
    if statm is None:
        return 0
    return int(os.pread(statm, 256, 0).split()[1]) * resource.getpagesize()
