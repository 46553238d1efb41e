"""The description of how a model writes reasoning and tool calls. From it come the parser of answers and the grammar of calls.

Each file in formats/ is one description. A call is written as a list of pieces: texts that the model writes as they are, and slots
such as `{name}`. Whitespace at the beginning and the end of a piece is what the model writes; a parser accepts any other there.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any


class Slot(StrEnum):
    """A part of a call that differs from call to call."""

    NAME = "{name}"
    """The name of the tool."""
    ARGUMENTS = "{arguments}"
    """The arguments as a JSON object."""
    OBJECT = "{object}"
    """A JSON object with the name and the arguments, under the keys that the description names."""
    OBJECTS = "{objects}"
    """A JSON array of such objects."""
    PARAMETERS = "{parameters}"
    """Any number of parameters, each written as `CallSyntax.parameter` says. The tool's schema tells the type of a value."""
    PYTHON_CALLS = "{python_calls}"
    """Calls in Python's syntax, separated by commas: `f(a=1), g(b="x")`."""
    BRACED = "{braced}"
    """Gemma's braces: keys without quotes, and texts between the marker `CallSyntax.quote`."""
    KEY = "{key}"
    """The name of a parameter; only in `CallSyntax.parameter`."""
    VALUE = "{value}"
    """The value of a parameter: the text itself if the schema says it is a string, else JSON; only in `CallSyntax.parameter`."""


Piece = str | Slot
"""A text that the model writes as it is, or a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSyntax:
    """The texts around reasoning."""

    open: str
    close: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    """The way in which calls are written: `begin`, calls with `separator` between them, `end`."""

    call: tuple[Piece, ...]
    begin: str = ""
    separator: str = ""
    end: str = ""
    parameter: tuple[Piece, ...] = ()
    """The text of one parameter, for the slot PARAMETERS."""
    name_key: str = "name"
    """The key of the name in the slots OBJECT and OBJECTS."""
    arguments_key: str = "arguments"
    quote: str = ""
    """The marker around texts in the slot BRACED."""
    in_reasoning: bool = False
    """True if a call may begin inside the reasoning, which it ends."""
    id_length: int = 0
    """The number of letters and digits of a call's id, if the template accepts no others; 0 if it accepts any."""

    @property
    def trigger(self) -> str:
        """The text that certainly begins calls; empty if a call begins like any answer."""
        first = self.begin or self.call[0]
        return "" if isinstance(first, Slot) else first.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """The format of a model's output."""

    name: str
    reasoning: ReasoningSyntax | None = None
    calls: CallSyntax | None = None
    answer_markers: tuple[str, ...] = ()
    """Texts before the answer itself that are no part of it, such as the name of a channel."""


@cache
def described_formats() -> dict[str, OutputFormat]:
    """Return all formats that have a file, by name."""
    files = (resources.files(__package__) / "formats").iterdir()
    texts = sorted((file.name, file.read_text()) for file in files if file.name.endswith(".toml"))
    formats = [read_format(name.removesuffix(".toml"), tomllib.loads(text)) for name, text in texts]
    return {each.name: each for each in formats}


def read_format(name: str, described: dict[str, Any]) -> OutputFormat:
    """Return the format that a description file describes."""
    reasoning, calls = described.get("reasoning"), described.get("calls")
    return OutputFormat(
        name=name,
        reasoning=ReasoningSyntax(**reasoning) if reasoning else None,
        calls=_calls(dict(calls)) if calls else None,
        answer_markers=tuple(described.get("answer_markers", ())),
    )


def _calls(described: dict[str, Any]) -> CallSyntax:
    return CallSyntax(
        call=_pieces(described.pop("call")), parameter=_pieces(described.pop("parameter", ())), **described
    )


def _pieces(texts: Sequence[str]) -> tuple[Piece, ...]:
    slots = {slot.value: slot for slot in Slot}
    return tuple(slots.get(text, text) for text in texts)
