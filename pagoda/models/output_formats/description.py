"""The description of how a model writes reasoning and tool calls. From it come the parser of answers and the grammar of calls.

Each file in formats/ is one description; docs/output-formats.md explains how to write one. A call is written as a list of pieces:
texts that the model writes as they are, and slots such as `{name}`. Whitespace at the beginning and the end of a text is what the
model writes; a parser accepts any other there.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    PARAMETERS = "{parameters}"
    """Any number of parameters, each written as `CallSyntax.parameter` says. The tool's schema tells the type of a value."""
    PYTHON_ARGUMENTS = "{python_arguments}"
    """Any number of keyword arguments in Python's syntax, separated by commas: `a=1, b="x", c=[True, None]`."""
    BRACED = "{braced}"
    """The arguments in braces: keys without quotes, texts between two markers `CallSyntax.quote`, other values as in JSON."""
    INDEX = "{index}"
    """A number that the model counts up from call to call, from 0."""
    KEY = "{key}"
    """The name of a parameter; only in `CallSyntax.parameter`."""
    VALUE = "{value}"
    """The value of a parameter: the text itself if it is a string, else JSON; only in `CallSyntax.parameter`."""
    IS_STRING = "{is_string}"
    """`true` if the value is a string, else `false`; only in `CallSyntax.parameter`. Without it, the tool's schema tells."""


Piece = str | Slot
"""A text that the model writes as it is, or a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSyntax:
    """The texts around reasoning."""

    open: str
    close: str
    again: bool = False
    """True if reasoning may begin anywhere in an answer, not only at its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    """The way in which calls are written: `begin`, calls with `separator` between them, `end`."""

    call: tuple[Piece, ...]
    begin: tuple[str, ...] = ()
    """Texts before the first call. There may be whitespace between them."""
    separator: str = ""
    end: tuple[str, ...] = ()
    """Texts after the last call. There may be whitespace between them."""
    parameter: tuple[Piece, ...] = ()
    """The text of one parameter, for the slot PARAMETERS."""
    name_key: str = "name"
    """The key of the name in the slot OBJECT."""
    arguments_key: str = "arguments"
    """The key of the arguments in the slot OBJECT."""
    quote: str = ""
    """The marker around texts in the slot BRACED."""
    bare: bool = False
    """True if a call begins like other text: only an answer that begins with a call of an offered tool has calls."""
    in_reasoning: bool = False
    """True if a call may begin inside the reasoning, which it ends."""
    id_marker: str = ""
    """The text before an id that may follow the name. The model writes none itself; histories of conversations have it."""
    id_length: int = 0
    """The number of letters and digits of a call's id, if the template accepts no others; 0 if it accepts any."""
    id_form: str = ""
    """The form of an id, made from `{name}` and `{index}`, if the model writes its ids so; else empty."""

    @property
    def trigger(self) -> str:
        """The text that certainly begins calls, without whitespace around it; empty if a call begins like other text."""
        first = (*self.begin, *self.call)[0]
        return "" if self.bare or isinstance(first, Slot) else first.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The texts and tokens by which a model shows that it writes a format."""

    template_has: tuple[str, ...] = ()
    """Texts that the chat template has, all of them."""
    template_lacks: tuple[str, ...] = ()
    """Texts of which the chat template has none."""
    vocabulary_has: tuple[str, ...] = ()
    """Tokens that the vocabulary has, all of them."""
    order: int = 0
    """The format with the highest order is chosen among those that fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """The format of a model's output."""

    name: str
    reasoning: ReasoningSyntax | None = None
    calls: CallSyntax | None = None
    answer_markers: tuple[str, ...] = ()
    """Texts that structure the answer and are no part of it, such as the name of a channel."""
    other_calls: tuple[CallSyntax, ...] = ()
    """Other ways in which the model may write calls. A parser accepts them; a grammar does not need them."""
    marks: tuple[Marks, ...] = ()
    """Marks of the models that write this format, any of them. Empty: the format is not chosen by marks."""


@cache
def described_formats() -> Mapping[str, OutputFormat]:
    """Return all formats that have a file, by name."""
    files = (resources.files(__package__) / "formats").iterdir()
    files_by_name = {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}
    described = {name: tomllib.loads(file.read_text(encoding="utf-8")) for name, file in sorted(files_by_name.items())}
    formats = {name: read_format(name, each) for name, each in described.items()}
    return {name: _with_other_calls(each, described[name].get("also", ()), formats) for name, each in formats.items()}


def read_format(name: str, described: Mapping[str, Any]) -> OutputFormat:
    """Return the format that a description file describes, without the formats that it names in `also`."""
    reasoning, calls = described.get("reasoning"), described.get("calls")
    return OutputFormat(
        name=name,
        reasoning=ReasoningSyntax(**reasoning) if reasoning else None,
        calls=_calls(calls) if calls else None,
        answer_markers=tuple(described.get("answer_markers", ())),
        marks=tuple(_marks(each) for each in described.get("choose", ())),
    )


def _with_other_calls(
    output_format: OutputFormat, names: Sequence[str], formats: Mapping[str, OutputFormat]
) -> OutputFormat:
    others = (formats[name].calls for name in names)
    return replace(output_format, other_calls=tuple(calls for calls in others if calls is not None))


def _marks(described: Mapping[str, Any]) -> Marks:
    texts = {key: tuple(value) for key, value in described.items() if key != "order"}
    return Marks(**texts, order=described.get("order", 0))


def _calls(described: Mapping[str, Any]) -> CallSyntax:
    pieces = {key: _pieces(described.get(key, ())) for key in ("call", "parameter")}
    texts = {key: tuple(described.get(key, ())) for key in ("begin", "end")}
    return CallSyntax(**{**described, **pieces, **texts})


def _pieces(texts: Sequence[str]) -> tuple[Piece, ...]:
    slots = {slot.value: slot for slot in Slot}
    return tuple(slots.get(text, text) for text in texts)
