"""A reader of text that arrives in pieces. Its methods are generators, which yield wherever they need more text.

So a parser is written as if it had the whole text, and cannot depend on how the text was cut.
"""

import re
from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A computation that yields until more text is there, and returns a value."""

MAX_UNREPORTED = 1 << 20
"""Maximum number of characters that are read but not yet part of the answer."""

_SPACE = re.compile(r"\s*")


class NotACallError(Exception):
    """The error for text that is not a call in the model's format."""


class OutputEndedError(Exception):
    """The error for an output that ends where more is needed."""


class TextReader:
    """The text that has arrived and is not read yet. Read text is kept until `report`, so that none is ever lost."""

    def __init__(self) -> None:
        self.text = ""
        self.has_ended = False
        """True if no more text will arrive."""
        self._unreported: list[str] = []
        self._num_unreported = 0

    def take(self, length: int) -> str:
        """Read this many characters that are not reported yet. Raises NotACallError at the limit of such text."""
        room = MAX_UNREPORTED - self._num_unreported
        taken = self.take_reported(min(length, room))
        self._unreported.append(taken)
        self._num_unreported += len(taken)
        if length > room:
            raise NotACallError
        return taken

    def take_reported(self, length: int) -> str:
        """Read this many characters that become a part of the answer at once."""
        taken, self.text = self.text[:length], self.text[length:]
        return taken

    def report(self) -> str:
        """Return the text that was read since the last report. It is now a part of the answer, or a marker."""
        text, self._unreported, self._num_unreported = "".join(self._unreported), [], 0
        return text

    def unread(self) -> None:
        """Put the text that is read but not reported back, to read it in another way."""
        self.text = self.report() + self.text

    def next_character(self) -> Steps[str]:
        """Return the next character without reading it. Raises OutputEndedError."""
        while not self.text:
            yield from self.more()
        return self.text[0]

    def more(self) -> Steps[None]:
        """Wait for more text. Raises OutputEndedError."""
        if self.has_ended:
            raise OutputEndedError
        yield

    def skip_space(self) -> Steps[None]:
        """Read whitespace, up to other text or the end of the output."""
        while True:
            found = _SPACE.match(self.text)
            if found and found.end():
                self.take(found.end())
            if self.text or self.has_ended:
                return
            yield

    def match(self, text: str) -> Steps[bool]:
        """Read `text` if it comes next, and return whether it does."""
        return (yield from self.match_any((text,))) is not None

    def match_any(self, texts: Sequence[str]) -> Steps[str | None]:
        """Read the one of the texts that comes next, and return it; None if there is none. No text begins another one."""
        while True:
            for text in texts:
                if self.text.startswith(text):
                    self.take(len(text))
                    return text
            if self.has_ended or not any(text.startswith(self.text) for text in texts):
                return None
            yield

    def expect(self, text: str) -> Steps[None]:
        """Read `text`. Raises NotACallError if other text comes next, and OutputEndedError."""
        if not (yield from self.match(text)):
            if self.has_ended and text.startswith(self.text):
                raise OutputEndedError
            raise NotACallError

    def read_pattern(self, pattern: re.Pattern[str], max_length: int) -> Steps[str]:
        """Read the longest text that matches, with at least one other character after it.

        Raises NotACallError if it is empty or longer than `max_length`, and OutputEndedError.
        """
        while True:
            found = pattern.match(self.text)
            length = found.end() if found else 0
            if length > max_length or (self.text and not length):
                raise NotACallError
            if length < len(self.text):
                return self.take(length)
            yield from self.more()
