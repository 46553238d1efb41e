"""Chat templates, compiled and rendered in processes of their own.

A template is a stranger's code and may need any time and memory, so it never runs in the gateway: template_process.py runs it,
within limits that the kernel enforces. A process that is killed fails the request it was working on and no other. One process
stays warm; more are started while several templates are rendered at once.
"""

import atexit
import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import orjson

from gateway.errors import ErrorKind, GatewayError, unavailable
from gateway.prompts.template_child import ChildEndedError, Reply, TemplateChild, TemplateLimits

MAX_SOURCE_CHARACTERS = 1 << 18
MAX_REQUEST_BYTES = 1 << 25
MAX_PROCESSES = 3
SLOW_CPU_S = 0.25
MAX_SLOW_WAITING = 16
MAX_SLOW_KNOWN = 256
IDLE_S = 60.0
"""How long a process that is not needed stays, beside the one that always does."""

# Calls wait in these for their process, more of them than may wait for slow templates.
rendering_threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="render")


class ChatTemplateError(ValueError):
    """The template is not usable, exceeds its limits, or does not accept these messages."""


class TemplateRenderer:
    """Safe to use from several threads; a call blocks its thread until the template is rendered, without the lock of Python."""

    def __init__(self, limits: TemplateLimits | None = None, *, max_processes: int = MAX_PROCESSES) -> None:
        self._limits = limits or TemplateLimits()
        self._lock = threading.Lock()
        self._idle: list[TemplateChild] = []
        self._places = threading.BoundedSemaphore(max_processes)
        self._slow_place = threading.Lock()
        self._num_slow = 0
        self._slow: dict[bytes, int] = {}
        """The smallest request, in bytes, with which a template was slow, by the template's digest."""

    def start_first_process(self) -> None:
        """Start the first process, so that it is ready when a template is."""
        with self._lock:
            if not self._idle:
                self._idle.append(TemplateChild(self._limits))

    def check_template(self, source: str, *, is_foreign: bool = False) -> frozenset[str]:
        """Compile the template and return the names of the variables that it reads; ChatTemplateError where it is not valid."""
        return frozenset(orjson.loads(self._ask(source, None, is_foreign)))

    def render_template(self, source: str, variables: Mapping[str, Any], *, is_foreign: bool = False) -> str:
        """Render the template. `is_foreign` is one that came with a request: it may not keep those of the models waiting.

        Raises ChatTemplateError with the reason where the template refuses the variables or exceeds its limits.
        """
        return self._ask(source, variables, is_foreign).decode()

    def close_idle_processes(self) -> None:
        """End the processes that are idle; the others end when their work is done and nobody reads their answer."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end_process()

    def _ask(self, source: str, variables: Mapping[str, Any] | None, is_foreign: bool) -> bytes:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise ChatTemplateError(
                f"the chat template has {len(source)} characters; at most {MAX_SOURCE_CHARACTERS} are allowed"
            )
        request = _serialized(source, variables)
        digest = hashlib.sha256(source.encode("utf-8", "replace")).digest()
        is_slow = is_foreign or self._is_slow(digest, len(request))
        with self._slow_lane() if is_slow else contextlib.nullcontext(), self._places:
            try:
                reply = self._answer_or_retry(request)
            except ChildEndedError as error:
                self._mark_slow(digest, len(request))
                raise ChatTemplateError(self._limit_reached(error.status)) from None
        if reply.cpu_s > SLOW_CPU_S:
            self._mark_slow(digest, len(request))
        return self._content(reply)

    def _is_slow(self, digest: bytes, num_bytes: int) -> bool:
        """Return whether the template was slow before with as much. A long chat of one client does not make it slow for all."""
        with self._lock:
            return num_bytes >= self._slow.get(digest, MAX_REQUEST_BYTES + 1)

    def _mark_slow(self, digest: bytes, num_bytes: int) -> None:
        with self._lock:
            self._slow[digest] = min(num_bytes, self._slow.pop(digest, num_bytes))
            if len(self._slow) > MAX_SLOW_KNOWN:
                del self._slow[next(iter(self._slow))]

    @contextlib.contextmanager
    def _slow_lane(self) -> Iterator[None]:
        """Templates that came with a request, or were slow before with so much, have one process among all of them."""
        with self._lock:
            if self._num_slow >= MAX_SLOW_WAITING:
                raise GatewayError(
                    ErrorKind.OVERLOADED,
                    f"{self._num_slow} requests with a slow chat template wait already; try again later.",
                    retry_after_s=self._limits.cpu_s,
                )
            self._num_slow += 1
        try:
            with self._slow_place:
                yield
        finally:
            with self._lock:
                self._num_slow -= 1

    def _answer_or_retry(self, request: bytes) -> Reply:
        """Ask a process; once more where one died of something else than its time, such as the kernel's choice."""
        try:
            return self._ask_one(request)
        except ChildEndedError as error:
            if error.status == -signal.SIGPROF:
                raise
            return self._ask_one(request)

    def _ask_one(self, request: bytes) -> Reply:
        process = self._take_process()
        reply = process.ask_process(request)
        self._return_process(process, reply)
        return reply

    def _take_process(self) -> TemplateChild:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return TemplateChild(self._limits)

    def _return_process(self, process: TemplateChild, reply: Reply) -> None:
        process.idle_since_s = time.monotonic()
        with self._lock:
            self._idle += [] if reply.ends else [process]
            cold = self._idle[:-1] and self._idle[0].idle_since_s < process.idle_since_s - IDLE_S
            ended = [process] if reply.ends else [self._idle.pop(0)] if cold else []
        for each in ended:
            each.end_process()

    def _content(self, reply: Reply) -> bytes:
        match reply.outcome:
            case "valid" | "rendered":
                return reply.content
            case "invalid":
                raise ChatTemplateError(f"the chat template is not valid: {reply.content.decode()}")
            case "too_long":
                raise ChatTemplateError(f"the chat template wrote more than {self._limits.characters} characters")
            case "too_large":
                raise ChatTemplateError(self._memory_reached())
        raise ChatTemplateError(f"the chat template does not accept these messages: {reply.content.decode()}")

    def _limit_reached(self, status: int) -> str:
        if status == -signal.SIGPROF:
            return f"the chat template needs more than {self._limits.cpu_s:g} s of processor time with these messages"
        if status >= 0:
            raise unavailable(f"The process for chat templates ended with status {status}; the log says why.")
        return self._memory_reached()

    def _memory_reached(self) -> str:
        return f"the chat template needs more than {self._limits.memory_bytes >> 20} MiB of memory with these messages"


def _serialized(source: str, variables: Mapping[str, Any] | None) -> bytes:
    try:
        request = orjson.dumps({"source": source, "variables": variables})
    except TypeError as error:  # nesting beyond orjson's limit, numbers beyond 64 bits, halves of characters
        raise ChatTemplateError(f"the messages cannot be given to the chat template: {error}") from None
    if len(request) > MAX_REQUEST_BYTES:
        raise ChatTemplateError(f"the messages have more than {MAX_REQUEST_BYTES >> 20} MiB")
    return request


@cache
def shared_renderer() -> TemplateRenderer:
    """Return the one of this process."""
    renderer = TemplateRenderer()
    atexit.register(renderer.close_idle_processes)
    return renderer
