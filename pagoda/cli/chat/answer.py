"""One answer on its way to the terminal: printed as it arrives, stopped by Ctrl-C, with its timings where they are wanted.

It is wrapped at words, and what controls a terminal is taken out of it.
"""

import re
import shutil
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from pagoda.cli import human
from pagoda.cli.ollama_api import Lines

JSONObject = dict[str, Any]

_MARGIN = 5
_NARROWEST = 10
# A model must not move the cursor, change the colours or set the clipboard of who reads it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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


def _wrap(style: Style) -> "WordWrap | None":
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


class WordWrap:
    """The text of one answer, piece by piece; prints nothing. `width` is the terminal's, None where nothing is to be wrapped.

    A word is shown as it grows; when it turns out not to fit, the cursor goes back and it moves to the next line.
    """

    def __init__(self, width: int | None) -> None:
        self._limit = width - _MARGIN if width is not None and width >= _NARROWEST else None
        self._column = 0
        self._word = ""

    def push(self, text: str) -> str:
        text = _CONTROL.sub("", text)
        return text if self._limit is None else "".join(map(self._place, text))

    def _place(self, character: str) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return character
        assert self._limit is not None
        width = cell_len(character)
        if self._column + width <= self._limit:
            self._advance(character, width)
            return character
        return self._break_line(character, width)

    def _advance(self, character: str, width: int) -> None:
        self._column += width
        # Between wide characters, as of Chinese, a line may break anywhere.
        self._word = "" if character in " \t" or width > 1 else self._word + character

    def _break_line(self, character: str, width: int) -> str:
        if character in " \t":
            self._column, self._word = 0, ""
            return "\n"
        word, word_width = self._word, cell_len(self._word)
        assert self._limit is not None
        if word_width + width > self._limit:  # Longer than a line: it breaks where the line ends.
            word, word_width = "", 0
        self._column, self._word = word_width + width, word + character
        back = f"\x1b[{word_width}D\x1b[K" if word else ""
        return f"{back}\n{word}{character}"
