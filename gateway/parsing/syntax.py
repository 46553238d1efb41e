"""A format in the characters of one tokenizer: control tokens, which have no text, are single characters that no text contains.

So a marker is recognized by its token if it is a control token, and by its text if it is not. The name of a control token that the
model spells letter by letter stays text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from pagoda.models.output_formats.description import CallSyntax, OutputFormat, Piece, ReasoningSyntax, Slot
from pagoda.text.tokenizer import Tokenizer

_FIRST_CHARACTER = 0xD800  # a lone surrogate, which decoded text never contains
_NUM_CHARACTERS = 0x800


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Syntax:
    """A format in the characters of one tokenizer. All parsers of a model share it."""

    format: OutputFormat
    """The format with control tokens as single characters."""
    control: dict[int, str]
    """The character of each control token in the format's texts, by token id."""
    names: dict[int, str]
    """The name of each of these control tokens, by the code of its character."""
    attention: frozenset[str]
    """First characters of all texts by which the parser may leave the text that it is in."""
    plain_texts: dict[int, str] = field(default_factory=dict)
    """Texts of tokens, by id, that are complete characters, have no character of `attention`, and end without whitespace."""

    @property
    def without_names(self) -> dict[int, str]:
        """Empty texts in place of the names."""
        return dict.fromkeys(self.names, "")


_known: WeakKeyDictionary[Tokenizer, dict[OutputFormat, Syntax]] = WeakKeyDictionary()


def syntax_of(output_format: OutputFormat, tokenizer: Tokenizer) -> Syntax:
    """Return the format in the tokenizer's characters. It is computed once for each model."""
    formats = _known.setdefault(tokenizer, {})
    if output_format not in formats:
        formats[output_format] = _compile(output_format, tokenizer)
    return formats[output_format]


def _compile(output_format: OutputFormat, tokenizer: Tokenizer) -> Syntax:
    texts = list(_texts(output_format))
    everything = "\0".join(texts)
    names = sorted((name for name in tokenizer.special_tokens if name and name in everything), key=len, reverse=True)
    characters = {name: chr(_FIRST_CHARACTER + index) for index, name in enumerate(names[:_NUM_CHARACTERS])}
    spelled = _Spelling(characters).format(output_format)
    return Syntax(
        format=spelled,
        control={tokenizer.special_tokens[name]: character for name, character in characters.items()},
        names={ord(character): name for name, character in characters.items()},
        attention=frozenset(marker[0] for marker in _outer_markers(spelled)),
    )


def closing_markers(calls: CallSyntax) -> frozenset[str]:
    """Return the texts at the end of calls that no other text has."""
    ends = (text.strip() for text in (calls.call[-1], *calls.end) if not isinstance(text, Slot))
    return frozenset(text for text in ends if len(text) >= 4 or not text.isascii())


def _outer_markers(given: OutputFormat) -> Iterator[str]:
    """Yield the texts by which a parser leaves a text."""
    yield from given.answer_markers
    if given.reasoning:
        yield from (given.reasoning.open, given.reasoning.close)
    for calls in (given.calls, *given.other_calls) if given.calls else ():
        yield from closing_markers(calls)
        yield from [calls.trigger] if calls.trigger else []


def _texts(output_format: OutputFormat) -> Iterator[str]:
    """Yield all texts of the format."""
    yield from output_format.answer_markers
    if reasoning := output_format.reasoning:
        yield from (reasoning.open, reasoning.close)
    for calls in (output_format.calls, *output_format.other_calls) if output_format.calls else ():
        pieces = (*calls.begin, *calls.call, calls.separator, *calls.end, *calls.parameter)
        yield from (piece for piece in pieces if not isinstance(piece, Slot))
        yield from (calls.quote, calls.id_marker)


class _Spelling:
    """The replacement of control tokens' names by characters."""

    def __init__(self, characters: dict[str, str]) -> None:
        self._characters = characters
        self._pattern = re.compile("|".join(map(re.escape, characters)) or r"(?!)")

    def format(self, given: OutputFormat) -> OutputFormat:
        markers = tuple(map(self._text, given.answer_markers))
        return replace(
            given,
            reasoning=given.reasoning and self._reasoning(given.reasoning),
            calls=given.calls and self._calls(given.calls),
            other_calls=tuple(map(self._calls, given.other_calls)),
            answer_markers=markers,
        )

    def _reasoning(self, given: ReasoningSyntax) -> ReasoningSyntax:
        return replace(given, open=self._text(given.open), close=self._text(given.close))

    def _calls(self, given: CallSyntax) -> CallSyntax:
        return replace(
            given,
            begin=tuple(map(self._text, given.begin)),
            call=tuple(map(self._piece, given.call)),
            separator=self._text(given.separator),
            end=tuple(map(self._text, given.end)),
            parameter=tuple(map(self._piece, given.parameter)),
            quote=self._text(given.quote),
            id_marker=self._text(given.id_marker),
        )

    def _piece(self, given: Piece) -> Piece:
        return given if isinstance(given, Slot) else self._text(given)

    def _text(self, given: str) -> str:
        return self._pattern.sub(lambda found: self._characters[found.group()], given)
