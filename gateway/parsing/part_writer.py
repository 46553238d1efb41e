"""The parts of an answer that are ready, with the numbers and ids of its calls."""

import secrets
import string
from collections.abc import Mapping

from gateway.parsing.json_scanner import escaped
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart

MAX_HELD_SPACE = 1024
"""Maximum number of characters of whitespace that are held back because a marker may follow."""
_LETTERS = string.ascii_letters + string.digits


class PartWriter:
    """A list of parts. `spelling` has the text of each control token that the reader got as one character."""

    def __init__(self, spelling: Mapping[int, str], *, id_length: int) -> None:
        self._spelling = spelling
        self._json_spelling = {code: escaped(name) for code, name in spelling.items()}
        self._id_length = id_length
        self._parts: list[AnswerPart] = []
        self._ids: set[str] = set()
        self.num_calls = 0

    def take_parts(self) -> list[AnswerPart]:
        """Return the parts since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def add_text(self, kind: type[ContentPart] | type[ReasoningPart], text: str) -> None:
        if text := _translated(text, self._spelling):
            last = self._parts[-1] if self._parts else None
            if type(last) is kind:
                text = last.text + text
                self._parts.pop()
            self._parts.append(kind(text))

    def begin_call(self, name: str, own_id: str = "") -> None:
        """Begin a call. It gets the id that the model wrote, if that is usable."""
        call_id = own_id if self._is_usable(own_id) else self._random_id()
        self._ids.add(call_id)
        self._parts.append(CallBegan(self.num_calls, call_id, _translated(name, self._spelling)))
        self.num_calls += 1

    def add_arguments(self, text: str) -> None:
        """Add JSON text to the arguments of the newest call."""
        if text := _translated(text, self._json_spelling):
            if self._parts and isinstance(last := self._parts[-1], CallArguments):
                text = last.text + text
                self._parts.pop()
            self._parts.append(CallArguments(self.num_calls - 1, text))

    def _is_usable(self, own_id: str) -> bool:
        return bool(own_id) and own_id not in self._ids and self._id_length in (0, len(own_id))

    def _random_id(self) -> str:
        if self._id_length:
            return "".join(secrets.choice(_LETTERS) for _ in range(self._id_length))
        return f"call_{secrets.token_hex(12)}"


def _translated(text: str, spelling: Mapping[int, str]) -> str:
    return text if text.isascii() or not spelling else text.translate(spelling)


class TextRun:
    """Text of one kind between markers. Whitespace at its ends may belong to the markers."""

    def __init__(
        self,
        writer: PartWriter,
        kind: type[ContentPart] | type[ReasoningPart],
        *,
        leading: str = "",
        trailing: str = "",
    ) -> None:
        """Drop `leading` characters at the beginning, and hold back `trailing` characters until other text follows."""
        self._writer = writer
        self.kind = kind
        self._leading = leading
        self._trailing = trailing
        self._held = ""

    @property
    def is_plain(self) -> bool:
        """True if text that ends without whitespace passes through as it is."""
        return not self._leading and not self._held

    def add(self, text: str) -> None:
        if self._leading:
            if not (text := text.lstrip(self._leading)):
                return
            self._leading = ""
        if self._trailing:
            text = self._held + text
            kept = max(len(text.rstrip(self._trailing)), len(text) - MAX_HELD_SPACE)
            text, self._held = text[:kept], text[kept:]
        if text:
            self._writer.add_text(self.kind, text)

    def drop_held(self) -> None:
        """Drop the whitespace that is held back: a marker follows."""
        self._held = ""

    def release_held(self) -> None:
        """Add the whitespace that is held back: no marker follows."""
        self._writer.add_text(self.kind, self._held)
        self._held = ""
