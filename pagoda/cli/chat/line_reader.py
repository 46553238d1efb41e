"""Reads a user's entries from the keyboard, with line editing, history and a hint in an empty line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT, CONTINUED = ">>> ", "... "
_QUOTE = '"""'
_QUOTABLE = ("", "/set system ")
"""Texts allowed before an opening quote."""
_HINT = "Send a message (/? for help)"


class LineReader(Protocol):
    """A source of lines: a terminal, or a fake one in tests."""

    remembers: bool
    """True if lines are saved in the history file."""

    def read(self, prompt: str) -> str:
        """Return the next input, several lines if they were pasted. Raises KeyboardInterrupt for Ctrl-C, EOFError for Ctrl-D."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One input of the user: a message or a slash command."""

    text: str
    is_command: bool


def read_entry(reader: LineReader) -> Entry:
    """Read one entry: a line, or several lines between triple double quotes.

    Raises KeyboardInterrupt and EOFError as the reader does; lines typed before are dropped.
    """
    line = reader.read(PROMPT)
    before, quote, rest = line.partition(_QUOTE)
    if not quote or before not in _QUOTABLE:
        return Entry(line.strip(), line.startswith("/"))
    while not rest.rstrip().endswith(_QUOTE):
        rest += "\n" + reader.read(CONTINUED)
    return Entry(before + rest.rstrip().removesuffix(_QUOTE).strip("\n"), bool(before))


class TerminalReader:
    """A reader of the terminal."""

    def __init__(self, history: Path, *, remembers: bool) -> None:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)  # Only the owner may read the history.
        self._history = _SwitchedHistory(str(history))
        self.remembers = remembers
        self._session: PromptSession[str] = PromptSession(
            history=self._history, key_bindings=_key_bindings(), enable_open_in_editor=True
        )

    @property
    def remembers(self) -> bool:
        return self._history.is_on

    @remembers.setter
    def remembers(self, value: bool) -> None:
        self._history.is_on = value

    def read(self, prompt: str) -> str:
        hint = FormattedText([("fg:ansibrightblack", _HINT if prompt.startswith(">") else "")])
        return self._session.prompt(prompt, placeholder=hint)


class _SwitchedHistory(FileHistory):
    is_on = True

    def append_string(self, string: str) -> None:
        if self.is_on:
            super().append_string(string)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-g")
    def edit(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return bindings
