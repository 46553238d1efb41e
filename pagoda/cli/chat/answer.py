"""Prints an answer as it arrives, until its end or Ctrl-C, and its timings on request.

The text is wrapped at words, and terminal control characters are removed.
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
_GREY, _BOLD, _NORMAL = "\x1b[90m", "\x1b[1m", "\x1b[0m"
_THINKING, _DONE_THINKING = "Thinking...\n", "...done thinking.\n\n"
# A model's text must not move the cursor, change colours or set the user's clipboard.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Options for printing answers."""

    wordwrap: bool
    verbose: bool
    hides_thinking: bool = False


@dataclass(slots=True, eq=False)
class Answer:
    """An answer so far."""

    text: str = ""
    thinking: str = ""
    """The reasoning before the text."""
    end: JSONObject | None = None
    """The last object of the stream, with the timings. None if the answer was stopped before."""


def print_answer(lines: Lines, style: Style) -> Answer:
    """Print the text of a stream of /api/chat or /api/generate. Ctrl-C closes the connection, which cancels the generation."""
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
    with ExitStack() as waiting, closing(_ShownThinking(style)) as thinking:
        waiting.enter_context(_spinner())
        for line in lines:
            thought, text = _text(line, "thinking"), _text(line)
            if thought and not style.hides_thinking:
                waiting.close()
                thinking.push(thought)
            answer.thinking += thought
            if text:
                waiting.close()
                thinking.close()
                answer.text += text
                sys.stdout.write(wrap.push(text) if wrap else text)
                sys.stdout.flush()
            if line.get("done"):
                answer.end = line


class _ShownThinking:
    """The reasoning before an answer: dimmed on a terminal. Piped output has only the answer, so this goes to stderr."""

    def __init__(self, style: Style) -> None:
        self._wrap = _wrap(style)
        self._file = sys.stdout if self._wrap else sys.stderr
        self._is_open = False
        self._ends_line = False

    def push(self, text: str) -> None:
        if not self._is_open:
            self._is_open = True
            self._write_mark(_THINKING)
        self._ends_line = text.endswith("\n")
        self._write(f"{_GREY}{self._wrap.push(text)}{_NORMAL}" if self._wrap else _CONTROL.sub("", text))

    def close(self) -> None:
        """Mark the end, if there was any reasoning."""
        if self._is_open:
            self._is_open = False
            self._write("" if self._ends_line else "\n")
            self._write_mark(_DONE_THINKING)

    def _write_mark(self, mark: str) -> None:
        self._write(f"{_GREY}{_BOLD}{mark}{_NORMAL}" if self._wrap else mark)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _end_line(answer: Answer) -> None:
    """Print an empty line after the answer on a terminal; end the last line in a file."""
    if answer.text and sys.stdout.isatty():
        print("\n", flush=True)
    elif answer.text and not answer.text.endswith("\n"):
        print(flush=True)


def _wrap(style: Style) -> "WordWrap | None":
    """Return the wrapping for a terminal, or None for other output, which is not changed."""
    if not sys.stdout.isatty():
        return None
    return WordWrap(shutil.get_terminal_size().columns if style.wordwrap else None)


def _spinner() -> Any:
    """Return a spinner to show until the first word arrives, or nothing if the output is not a terminal."""
    console = Console(stderr=True)
    return console.status("") if console.is_terminal and sys.stdout.isatty() else ExitStack()


def _text(line: JSONObject, kind: str = "content") -> str:
    if "message" in line:
        return str(line["message"].get(kind, ""))
    return str(line.get("response" if kind == "content" else kind, ""))


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
    """Word wrapping for the text of one answer, which arrives in pieces. `width` is the terminal's, or None to not wrap.

    A word is shown as it grows. If it then does not fit, it is erased and moved to the next line.
    """

    def __init__(self, width: int | None) -> None:
        self._limit = width - _MARGIN if width is not None and width >= _NARROWEST else None
        self._column = 0
        self._word = ""

    def push(self, text: str) -> str:
        """Return what to print for the next piece of text."""
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
        # A line may break between any two wide characters, such as Chinese ones.
        self._word = "" if character in " \t" or width > 1 else self._word + character

    def _break_line(self, character: str, width: int) -> str:
        if character in " \t":
            self._column, self._word = 0, ""
            return "\n"
        word, word_width = self._word, cell_len(self._word)
        assert self._limit is not None
        if word_width + width > self._limit:  # A word longer than a line is broken at the line's end.
            word, word_width = "", 0
        self._column, self._word = word_width + width, word + character
        back = f"\x1b[{word_width}D\x1b[K" if word else ""
        return f"{back}\n{word}{character}"
