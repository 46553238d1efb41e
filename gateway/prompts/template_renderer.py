"""A renderer that compiles and renders chat templates in separate processes.

A template is untrusted code that may need any time and memory, so it never runs in the gateway: template_process.py runs it within
limits that the kernel enforces. A process that is killed fails only its current request. One process stays warm; more are started
while several templates are rendered at once.
"""

import atexit
import contextlib
import hashlib
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from gateway.confined.child import ChildEndedError, Reply
from gateway.confined.pool import ConfinedPool
from gateway.errors import ErrorKind, GatewayError, unavailable

MAX_SOURCE_CHARACTERS = 1 << 18
MAX_REQUEST_BYTES = 1 << 25
MAX_PROCESSES = 3
SLOW_CPU_S = 0.25
"""Processor time beyond which a template counts as slow, in seconds."""
MAX_SLOW_WAITING = 16
MAX_SLOW_KNOWN = 256

# More threads than calls with slow templates may wait, so that other templates always find a free one.
rendering_threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="render")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLimits:
    """The limits of one request to compile or render."""

    cpu_s: float = 2.0
    """Maximum processor time, in seconds."""
    memory_bytes: int = 192 << 20
    """Maximum address space of the process, in bytes. Python and Jinja take 27 MiB of it."""
    characters: int = 1 << 22
    """Maximum number of characters of the rendered text."""


class ChatTemplateError(ValueError):
    """The error for a template that is not valid, exceeds its limits, or does not accept the messages."""


class TemplateRenderer:
    """A renderer for several threads. A call blocks its thread until the template is rendered, but does not hold Python's lock."""

    def __init__(self, limits: TemplateLimits | None = None, *, max_processes: int = MAX_PROCESSES) -> None:
        self._limits = limits or TemplateLimits()
        numbers = (self._limits.cpu_s, self._limits.memory_bytes, self._limits.characters)
        self._pool = ConfinedPool(
            "gateway.prompts.template_process", numbers, work="chat templates", max_processes=max_processes
        )
        self._lock = threading.Lock()
        self._slow_place = threading.Lock()
        self._num_slow = 0
        self._slow: dict[bytes, int] = {}
        """Size of the smallest request, in bytes, with which a template was slow, by the template's digest."""

    def start_first_process(self) -> None:
        """Start the first process, so that the first template does not wait for it."""
        self._pool.start_first_process()

    def check_template(self, source: str, *, is_foreign: bool = False) -> frozenset[str]:
        """Compile the template and return the names of its variables. Raises ChatTemplateError if it is not valid."""
        return frozenset(orjson.loads(self._ask(source, None, is_foreign)))

    def render_template(self, source: str, variables: Mapping[str, Any], *, is_foreign: bool = False) -> str:
        """Render the template. One that came with a request (`is_foreign`) must not delay those of the models.

        Raises ChatTemplateError with the reason if the template rejects the variables or exceeds its limits.
        """
        return self._ask(source, variables, is_foreign).decode()

    def close_idle_processes(self) -> None:
        """End the idle processes. The others end after their current request, because their sockets are closed by then."""
        self._pool.close_idle_processes()

    def _ask(self, source: str, variables: Mapping[str, Any] | None, is_foreign: bool) -> bytes:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise ChatTemplateError(
                f"the chat template has {len(source)} characters; at most {MAX_SOURCE_CHARACTERS} are allowed"
            )
        request = _serialized(source, variables)
        digest = hashlib.sha256(source.encode("utf-8", "replace")).digest()
        is_slow = is_foreign or self._is_slow(digest, len(request))
        with self._slow_lane() if is_slow else contextlib.nullcontext():
            try:
                reply = self._pool.ask(request)
            except ChildEndedError as error:
                self._mark_slow(digest, len(request))
                raise ChatTemplateError(self._limit_reached(error.status)) from None
        if reply.cpu_s > SLOW_CPU_S:
            self._mark_slow(digest, len(request))
        return self._content(reply)

    def _is_slow(self, digest: bytes, num_bytes: int) -> bool:
        """Return True if the template was slow with a request of at most this size. One long chat does not make it slow for all."""
        with self._lock:
            return num_bytes >= self._slow.get(digest, MAX_REQUEST_BYTES + 1)

    def _mark_slow(self, digest: bytes, num_bytes: int) -> None:
        with self._lock:
            self._slow[digest] = min(num_bytes, self._slow.pop(digest, num_bytes))
            if len(self._slow) > MAX_SLOW_KNOWN:
                del self._slow[next(iter(self._slow))]

    @contextlib.contextmanager
    def _slow_lane(self) -> Iterator[None]:
        """Wait for the one process that all slow templates share: those that came with a request, or were slow before."""
        with self._lock:
            if self._num_slow >= MAX_SLOW_WAITING:
                raise GatewayError(
                    ErrorKind.OVERLOADED,
                    f"{self._num_slow} requests with a slow chat template are waiting already; try again later.",
                    retry_after_s=self._limits.cpu_s,
                )
            self._num_slow += 1
        try:
            with self._slow_place:
                yield
        finally:
            with self._lock:
                self._num_slow -= 1

    def _content(self, reply: Reply) -> bytes:
        match reply.outcome:
            case "valid" | "rendered":
                return reply.content
            case "invalid":
                raise ChatTemplateError(f"the chat template is not valid: {reply.content.decode()}")
            case "too_long":
                raise ChatTemplateError(
                    f"the chat template wrote more than the limit of {self._limits.characters} characters"
                )
            case "too_large":
                raise ChatTemplateError(self._memory_reached())
        raise ChatTemplateError(f"the chat template does not accept these messages: {reply.content.decode()}")

    def _limit_reached(self, status: int) -> str:
        if status == -signal.SIGPROF:
            return f"the chat template needs more than {self._limits.cpu_s:g} s of processor time with these messages"
        if status >= 0:
            raise unavailable(f"The process for chat templates ended with status {status}; see the log.")
        return self._memory_reached()

    def _memory_reached(self) -> str:
        return f"the chat template needs more than {self._limits.memory_bytes >> 20} MiB of memory with these messages"


def _serialized(source: str, variables: Mapping[str, Any] | None) -> bytes:
    try:
        request = orjson.dumps({"source": source, "variables": variables})
    except TypeError as error:  # too deep for orjson, numbers beyond 64 bits, lone surrogates
        raise ChatTemplateError(f"the messages cannot be passed to the chat template: {error}") from None
    if len(request) > MAX_REQUEST_BYTES:
        raise ChatTemplateError(
            f"the messages have {len(request)} bytes; at most {MAX_REQUEST_BYTES >> 20} MiB are allowed"
        )
    return request


@cache
def shared_renderer() -> TemplateRenderer:
    """Return the renderer of this process."""
    renderer = TemplateRenderer()
    atexit.register(renderer.close_idle_processes)
    return renderer
