"""The scanner of one JSON value in text that arrives in pieces, which repairs what models often write wrongly."""

import json
import re
from enum import Enum

_SPACE = re.compile(r"\s+")
_JSON_SPACE = " \t\r\n"
_NUMBER = re.compile(r"[-.0-9][-+.0-9eE]*")
_MORE_OF_NUMBER = re.compile(r"[-+.0-9eE]+")
_NUMBER_SO_FAR = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:(?<=[0-9])[eE][-+]?[0-9]*)?)?")
MAX_NUMBER = 1024
"""Maximum number of characters of a number."""
_LETTERS = re.compile(r"[A-Za-z]+")
WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
"""Words of JSON and of Python, with their spelling in JSON."""
_SCALAR = re.compile(r"[A-Za-z0-9+.\-]+")
_STRING_TEXT = re.compile(r'[^"\\\x00-\x1f]*')
_NO_CHARACTER = "\\ufffd"
_CLOSING = {"{": "}", "[": "]"}


class _Next(Enum):
    """The kinds of text that may come next in a value. Whitespace may come anywhere between its parts."""

    FIRST = "a key or a value, or the end"
    KEY_OR_VALUE = "a key or a value"
    COLON = "a colon"
    VALUE = "a value"
    COMMA = "a comma, or the end"


def escaped(text: str) -> str:
    """Return the text as it is written inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class JsonScanner:
    """A scanner for one JSON value. It finds the end of the value, and repairs what models often write wrongly.

    Line breaks and backslashes in strings are escaped, Python's words are replaced, and a comma after the last item is left out.
    The text so far is always the beginning of JSON: a value that continues in another way is broken there.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        """Closing brackets that are still to come, innermost last."""
        self._next = _Next.VALUE
        self._in_string = False
        self._in_scalar = False
        self._number = ""
        """Beginning of a number, which is part of the output."""
        self._escape = ""
        """Beginning of an escape in a string, not part of the output yet."""
        self._high = ""
        """Escape of the first half of a surrogate pair, not part of the output yet."""
        self._word = ""
        """Beginning of a word such as `true`, not part of the output yet."""
        self._comma: list[str] = []
        """A comma, and whitespace after it, not part of the output yet."""
        self.is_complete = False
        self.is_broken = False

    def scan(self, text: str) -> tuple[str, int]:
        """Return the repaired text of the value, and the number of characters that belong to it."""
        repaired: list[str] = []
        position = 0
        while position < len(text) and not self.is_complete and not self.is_broken:
            if self._in_string:
                position = self._scan_string(text, position, repaired)
            else:
                position = self._scan_structure(text, position, repaired)
        return "".join(repaired), position

    def take_rest(self) -> str:
        """Return what was held back, at the end of the output or of what is JSON."""
        rest = "".join((*self._comma, self._word, self._high, self._escape))
        self._comma, self._word, self._high, self._escape = [], "", "", ""
        return rest

    def _scan_structure(self, text: str, position: int, repaired: list[str]) -> int:
        if not self._open:
            return self._scan_beginning(text, position, repaired)
        if self._number and (more := _MORE_OF_NUMBER.match(text, position)):
            return self._add_to_number(more, repaired)
        if self._number:
            self._end_number(repaired)
        if letters := _LETTERS.match(text, position):
            return self._add_to_word(letters)
        if self._word:
            return self._end_word(position, repaired)
        if number := _NUMBER.match(text, position):
            return self._add_to_number(number, repaired) if self._begin_value(repaired) else position
        if space := _SPACE.match(text, position):
            written = " " if space.group().strip(_JSON_SPACE) else space.group()
            (self._comma or repaired).append(written)
            return space.end()
        return self._scan_mark(text, position, repaired)

    def _begin_value(self, repaired: list[str]) -> bool:
        """Note that a value, but no key, begins. If none may, the text is broken."""
        is_value = self._next is _Next.VALUE or (
            self._open[-1] == "]" and self._next in (_Next.FIRST, _Next.KEY_OR_VALUE)
        )
        if not is_value:
            self.is_broken = True
            return False
        self._release_comma(repaired)
        self._next = _Next.COMMA
        return True

    def _release_comma(self, repaired: list[str]) -> None:
        repaired += self._comma
        self._comma = []

    def _add_to_number(self, found: re.Match[str], repaired: list[str]) -> int:
        number = self._number + found.group()
        valid = _NUMBER_SO_FAR.match(number[:MAX_NUMBER])
        assert valid is not None, "it may be empty"
        new = number[len(self._number) : valid.end()]
        self._number = valid.group()
        self.is_broken = valid.end() < len(number)
        repaired.append(new)
        return found.start() + len(new)

    def _end_number(self, repaired: list[str]) -> None:
        repaired.append("" if self._number[-1].isdigit() else "0")  # `1.` and the like
        self._number = ""

    def _add_to_word(self, letters: re.Match[str]) -> int:
        word = self._word + letters.group()
        if not any(each.startswith(word) for each in WORDS):
            self.is_broken = True
            return letters.start()
        self._word = word
        return letters.end()

    def _end_word(self, position: int, repaired: list[str]) -> int:
        word = WORDS.get(self._word)
        if word is None or not self._begin_value(repaired):
            self.is_broken = True
        else:
            repaired.append(word)
            self._word = ""
        return position

    def _scan_mark(self, text: str, position: int, repaired: list[str]) -> int:
        character = text[position]
        if character == "," and self._next is _Next.COMMA:
            self._comma = [character]
            self._next = _Next.KEY_OR_VALUE
            return position + 1
        if character == ":" and self._next is _Next.COLON:
            self._next = _Next.VALUE
        elif character == self._open[-1] and self._next in (_Next.FIRST, _Next.KEY_OR_VALUE, _Next.COMMA):
            self._comma = []
            self._close()
        elif character == '"' and self._open[-1] == "}" and self._next in (_Next.FIRST, _Next.KEY_OR_VALUE):
            self._release_comma(repaired)
            self._in_string = True
            self._next = _Next.COLON
        elif (character == '"' or character in _CLOSING) and self._begin_value(repaired):
            self._in_string = character == '"'
            if character in _CLOSING:
                self._open_bracket(character)
        else:
            self.is_broken = True
            return position
        repaired.append(character)
        return position + 1

    def _open_bracket(self, character: str) -> None:
        self._open.append(_CLOSING[character])
        self._next = _Next.FIRST

    def _close(self) -> None:
        self._open.pop()
        self._next = _Next.COMMA
        self.is_complete = not self._open

    def _scan_beginning(self, text: str, position: int, repaired: list[str]) -> int:
        """Scan the first character of the value, or a number or word that is all of it."""
        character = text[position]
        if scalar := _SCALAR.match(text, position):
            self._in_scalar = True
            repaired.append(scalar.group())
            return scalar.end()
        if self._in_scalar:
            self.is_complete = True
            return position
        if character == '"':
            self._in_string = True
        elif character in _CLOSING:
            self._open_bracket(character)
        else:
            self.is_broken = True
            return position
        repaired.append(character)
        return position + 1

    def _scan_string(self, text: str, position: int, repaired: list[str]) -> int:
        if self._escape:
            return self._scan_escape(text, position, repaired)
        if text[position] != "\\":
            self._end_surrogate(repaired)
        plain = _STRING_TEXT.match(text, position)
        if plain and plain.end() > position:
            repaired.append(plain.group())
            return plain.end()
        character = text[position]
        if character == "\\":
            self._escape = character
        else:
            repaired.append(character if character == '"' else escaped(character))
            if character == '"':
                self._in_string = False
                self.is_complete = not self._open
        return position + 1

    def _scan_escape(self, text: str, position: int, repaired: list[str]) -> int:
        character = text[position]
        is_first = len(self._escape) == 1
        if is_first and character != "u":
            self._end_surrogate(repaired)
        if is_first and character in '"\\/bfnrt':
            repaired.append(self._escape + character)
            self._escape = ""
        elif (is_first and character == "u") or (not is_first and character in "0123456789abcdefABCDEF"):
            self._escape += character
            if len(self._escape) == 6:
                self._add_code(self._escape, repaired)
                self._escape = ""
        else:  # no escape of JSON: the backslash itself is meant
            self._end_surrogate(repaired)
            repaired.append("\\" + self._escape)
            self._escape = ""
            return position
        return position + 1

    def _add_code(self, escape: str, repaired: list[str]) -> None:
        """Add the escape of a code. Half of a surrogate pair is no character, and becomes the one for such."""
        code = int(escape[2:], 16)
        if self._high and 0xDC00 <= code < 0xE000:
            repaired.append(self._high + escape)
            self._high = ""
            return
        self._end_surrogate(repaired)
        if 0xD800 <= code < 0xDC00:
            self._high = escape
        else:
            repaired.append(_NO_CHARACTER if 0xDC00 <= code < 0xE000 else escape)

    def _end_surrogate(self, repaired: list[str]) -> None:
        repaired.append(_NO_CHARACTER if self._high else "")
        self._high = ""
