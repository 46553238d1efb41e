"""Text that arrives in pieces, as it is written to a terminal: wrapped at words, and without control sequences.

Pure: text in, text out. A word is shown as it grows; when it turns out not to fit, the cursor goes back and it moves to
the next line.
"""

import re

from rich.cells import cell_len

_MARGIN = 5
_NARROWEST = 10
# A model must not move the cursor, change the colours or set the clipboard of who reads it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class WordWrap:
    """One answer. `width` is the terminal's, None where nothing is to be wrapped."""

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
