"""One answer on its way to the terminal: printed as it arrives, stopped by Ctrl-C.

Knows nothing about what was asked.
"""

import shutil
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pagoda.cli.chat.timings import timing_lines
from pagoda.cli.chat.wrapping import WordWrap
from pagoda.cli.ollama_api import Lines

JSONObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    wordwrap: bool
    verbose: bool


@dataclass(slots=True, eq=False)
class Answer:
    text: str = ""
    end: JSONObject | None = None
    """The last object, with the timings; None if it was stopped before."""


def print_answer(lines: Lines, style: Style) -> Answer:
    """Prints /api/chat's or /api/generate's objects. Ctrl-C closes the connection, which ends the generation."""
    answer = Answer()
    try:
        with closing(lines), suppress(KeyboardInterrupt):
            _print_text(lines, answer, style)
    finally:
        _end_line(answer)
    if style.verbose and answer.end:
        print("\n".join([*timing_lines(answer.end), ""]), file=sys.stderr, flush=True)
    return answer


def _print_text(lines: Lines, answer: Answer, style: Style) -> None:
    wrap = _wrap(style)
    with ExitStack() as waiting:
        waiting.enter_context(_spinner())
        for line in lines:
            text = _text(line)
            if text:
                waiting.close()
                answer.text += text
                sys.stdout.write(wrap.push(text) if wrap else text)
                sys.stdout.flush()
            if line.get("done"):
                answer.end = line


def _end_line(answer: Answer) -> None:
    """An empty line between two answers on a terminal; a file's last line just ends."""
    if answer.text and sys.stdout.isatty():
        print("\n", flush=True)
    elif answer.text and not answer.text.endswith("\n"):
        print(flush=True)


def _wrap(style: Style) -> WordWrap | None:
    """What does not go to a terminal goes as it is."""
    if not sys.stdout.isatty():
        return None
    return WordWrap(shutil.get_terminal_size().columns if style.wordwrap else None)


def _spinner() -> Any:
    """While the first word is awaited; nothing where nobody looks."""
    console = Console(stderr=True)
    return console.status("") if console.is_terminal and sys.stdout.isatty() else ExitStack()


def _text(line: JSONObject) -> str:
    return str(line["message"].get("content", "")) if "message" in line else str(line.get("response", ""))
