"""The process that compiles and renders chat templates: `python -m gateway.prompts.template_process CPU_S MEMORY_BYTES CHARACTERS`.

It answers one request after another on the socket that is its standard input, and ends when that socket is closed. The kernel
enforces its limits: SIGPROF kills it if a request needs more processor time, and memory beyond the limit is refused.
template_renderer.py starts it, and replaces it if it was killed. It sees no secret: its environment has no settings, and it
cannot open files.
"""

import codecs
import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import warnings
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

import jinja2
import orjson
from jinja2 import meta

from gateway.prompts.template_sandbox import chat_environment

MAX_CACHED_TEMPLATES = 16
GROWN_SHARE = 0.5
"""Share of the memory limit beyond which the process ends after its answer, so that the next request has all memory."""
MAX_REASON_CHARACTERS = 500
LATE_IMPORTS = ("jinja2.constants", "jinja2.debug", "pprint", "textwrap")
LATE_CODECS = (
    "ascii",
    "cp1252",
    "latin-1",
    "unicode-escape",
    "utf-7",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
)
"""Codecs that Python loads at their first use. They and LATE_IMPORTS are loaded at the start, before files are forbidden."""

_environment = chat_environment()


def main() -> None:
    try:
        _serve()
    except MemoryError:
        signal.raise_signal(signal.SIGKILL)  # no memory even for the answer: end as if the kernel had killed it


def _serve() -> None:
    cpu_s, memory_bytes, max_characters = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
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
        outcome, content = _answer(request, max_characters)
        signal.setitimer(signal.ITIMER_PROF, 0)
        del request
        ends = _resident_bytes(statm) > GROWN_SHARE * memory_bytes
        head = {"outcome": outcome, "cpu_s": time.process_time() - began_s, "ends": ends}
        try:
            connection.send_bytes(orjson.dumps(head))
            connection.send_bytes(content)
        except BrokenPipeError:
            return


def _confine(memory_bytes: int) -> int | None:
    """Limit memory and forbid opening files. Return the open /proc/self/statm, which has the process's size, or None without it."""
    for module in LATE_IMPORTS:
        importlib.import_module(module)
    for codec in LATE_CODECS:
        codecs.lookup(codec)
    time.localtime()  # reads the time zone
    warnings.simplefilter("ignore")  # Python's compiler warns about generated code
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


def _answer(request: bytes, max_characters: int) -> tuple[str, bytes]:
    """Return the outcome's name and its content: the text, the names of the variables, or the reason."""
    try:
        content = orjson.loads(request)
        try:
            template = _compiled(content["source"])
        except MemoryError:
            raise
        except Exception as error:  # Jinja's errors, and any of Python's compiler for the code that Jinja generates
            return "invalid", _reason(error)
        if content["variables"] is None:
            return "valid", orjson.dumps(_variables(content["source"]))
        text = template.render(content["variables"])
        return ("too_long", b"") if len(text) > max_characters else ("rendered", _utf8(text))
    except MemoryError:
        return "too_large", b""
    except Exception as error:  # a template may call any method of its variables, so any class of error is possible
        return "refused", _reason(error)


@lru_cache(MAX_CACHED_TEMPLATES)
def _compiled(source: str) -> jinja2.Template:
    return _environment.from_string(source)


def _variables(source: str) -> list[str]:
    """Return the variables that the template reads from outside."""
    return sorted(meta.find_undeclared_variables(_environment.parse(source)))


def _reason(error: Exception) -> bytes:
    match error:
        case jinja2.TemplateSyntaxError():
            reason = f"{error.message} (line {error.lineno})"
        case SyntaxError():
            reason = f"Python's compiler rejects it: {error.msg}"
        case RecursionError():
            reason = "it is nested too deeply"
        case OSError():  # its text may contain a path
            reason = "it needs a file or a module, which templates cannot open"
        case jinja2.TemplateError():
            reason = str(error)
        case _:
            reason = f"{type(error).__name__}: {error}"
    return _utf8(reason[:MAX_REASON_CHARACTERS] or type(error).__name__)


def _utf8(text: str) -> bytes:
    """Encode the text. Lone surrogates, which templates can write, become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


if __name__ == "__main__":
    main()
