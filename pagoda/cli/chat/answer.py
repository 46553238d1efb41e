"""One answer on its way to the terminal: printed as it arrives, stopped by Ctrl-C, with its timings where they are wanted."""

import shutil
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pagoda.cli import human
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


def timing_lines(end: JSONObject) -> list[str]:
    """Return the lines of `--verbose`, from the last object of an answer, as Ollama writes them."""
    values = [
        ("total duration", _duration(end, "total_duration")),
        ("load duration", _duration(end, "load_duration")),
        ("prompt eval count", _count(end, "prompt_eval_count")),
        ("prompt eval duration", _duration(end, "prompt_eval_duration")),
        ("prompt eval rate", _rate(end, "prompt_eval_count", "prompt_eval_duration")),
        ("eval count", _count(end, "eval_count")),
        ("eval duration", _duration(end, "eval_duration")),
        ("eval rate", _rate(end, "eval_count", "eval_duration")),
    ]
    return [f"{name + ':':<21} {value}" for name, value in values if value]


def _duration(end: JSONObject, field: str) -> str:
    return human.duration(end[field]) if end.get(field) else ""


def _count(end: JSONObject, field: str) -> str:
    return f"{end[field]} token(s)" if end.get(field) else ""


def _rate(end: JSONObject, count: str, duration: str) -> str:
    return f"{end.get(count, 0) / (end[duration] / 1e9):.2f} tokens/s" if end.get(duration) else ""
