"""The parts of an answer in the form of Ollama's lines: text and reasoning as they come, and calls once they are complete.

Ollama's calls have their arguments as an object, so that a call cannot be sent in parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A complete tool call."""

    index: int
    """Number of the call in its answer, from 0."""
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(slots=True, kw_only=True)  # Not frozen: that would cost a microsecond per token.
class Piece:
    """The part of an answer that one line adds."""

    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.calls)


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return all pieces of an answer as one."""
    return Piece(
        content="".join(piece.content for piece in pieces),
        thinking="".join(piece.thinking for piece in pieces),
        calls=tuple(call for piece in pieces for call in piece.calls),
    )


class AnswerPieces:
    """The pieces of one answer. A call waits until its arguments are complete."""

    def __init__(self) -> None:
        self._begun: CallBegan | None = None
        self._arguments: list[str] = []

    def add_parts(self, parts: Sequence[AnswerPart]) -> Piece:
        """Return what is complete after these parts."""
        pieces: list[Piece] = []
        for part in parts:
            match part:
                case CallArguments(text=text):
                    self._arguments.append(text)
                case CallBegan():
                    pieces.append(self.finish())
                    self._begun = part
                case ContentPart(text=text):
                    pieces += [self.finish(), Piece(content=text)]
                case ReasoningPart(text=text):
                    pieces += [self.finish(), Piece(thinking=text)]
        return pieces[0] if len(pieces) == 1 else joined(pieces)

    def finish(self) -> Piece:
        """Return the call that waits, at its end. A call that was cut off in its arguments is text: nothing is lost."""
        if self._begun is None:
            return Piece()
        begun, written = self._begun, "".join(self._arguments)
        self._begun, self._arguments = None, []
        arguments = _parsed(written)
        if arguments is None:
            return Piece(content=f'{{"name": {orjson.dumps(begun.name).decode()}, "arguments": {written}')
        return Piece(calls=(Call(index=begun.index, id=begun.id, name=begun.name, arguments=arguments),))


def _parsed(written: str) -> dict[str, Any] | None:
    """Return the arguments as an object; None if they are not complete. No arguments at all are an empty object."""
    try:
        value = orjson.loads(written) if written.strip() else {}
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
