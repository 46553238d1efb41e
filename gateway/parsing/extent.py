"""The extent of one value among others, in text that arrives in pieces."""

import re

from gateway.parsing.text_reader import Steps, TextReader

_CLOSING = {"[": "]", "(": ")", "{": "}"}


class Extent:
    """A scanner that finds the end of a value."""

    def __init__(self, *, quotes: tuple[str, ...], ends: str, has_escapes: bool) -> None:
        """Take the texts around strings, the characters that end a value, and whether a backslash escapes a character."""
        self._quotes = quotes
        self._ends = ends
        self._has_escapes = has_escapes
        self._open: list[str] = []
        self._quote = ""
        self._stop = re.compile("|".join(map(re.escape, (*quotes, *"[](){}", *ends))))
        self.is_complete = False

    def scan(self, text: str) -> int:
        """Return the number of characters that certainly belong to the value."""
        position = 0
        while position < len(text):
            if self._quote:
                position, goes_on = self._scan_string(text, position)
                if not goes_on:
                    return position
                continue
            found = self._stop.search(text, position)
            if found is None:
                return self._before_partial_quote(text, position)
            mark, position = found.group(), found.start()
            if not self._open and mark in self._ends:
                self.is_complete = True
                return position
            if mark in self._quotes:
                self._quote = mark
            elif mark in _CLOSING:
                self._open.append(_CLOSING[mark])
            elif self._open and mark == self._open[-1]:
                self._open.pop()
            position += len(mark)
        return position

    def _scan_string(self, text: str, position: int) -> tuple[int, bool]:
        end = text.find(self._quote, position)
        backslash = text.find("\\", position, len(text) if end < 0 else end) if self._has_escapes else -1
        if backslash >= 0:
            # An escaped character is read together with its backslash.
            return (backslash + 2, True) if backslash + 1 < len(text) else (backslash, False)
        if end >= 0:
            end += len(self._quote)
            self._quote = ""
            return end, True
        return max(position, self._before_partial_quote(text, position)), False

    def _before_partial_quote(self, text: str, position: int) -> int:
        for quote in self._quotes:
            for length in range(min(len(quote) - 1, len(text) - position), 0, -1):
                if text.endswith(quote[:length]):
                    return len(text) - length
        return len(text)


def read_extent(reader: TextReader, extent: Extent) -> Steps[str]:
    """Read a value up to its end, which is not read. Raises NotACallError and OutputEndedError."""
    texts: list[str] = []
    while True:
        texts.append(reader.take(extent.scan(reader.text)))
        if extent.is_complete:
            return "".join(texts)
        yield from reader.more()
