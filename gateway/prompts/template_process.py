"""The process that compiles and renders chat templates: `python -m gateway.prompts.template_process CPU_S MEMORY_BYTES CHARACTERS`.

template_renderer.py starts it, and replaces it if it was killed. Its limits are those of gateway/confined/serve.py.
"""

import codecs
import importlib
import sys
import time
import warnings
from functools import lru_cache, partial

import jinja2
import orjson
from jinja2 import meta

from gateway.confined.serve import serve_requests
from gateway.prompts.template_sandbox import chat_environment

MAX_CACHED_TEMPLATES = 16
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
    cpu_s, memory_bytes, max_characters = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for module in LATE_IMPORTS:
        importlib.import_module(module)
    for codec in LATE_CODECS:
        codecs.lookup(codec)
    time.localtime()  # reads the time zone
    warnings.simplefilter("ignore")  # Python's compiler warns about generated code
    serve_requests(partial(_answer, max_characters=max_characters), cpu_s=cpu_s, memory_bytes=memory_bytes)


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
