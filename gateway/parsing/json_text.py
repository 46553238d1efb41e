"""JSON text that arrives in pieces."""

import json
import re
from collections.abc import Callable

from gateway.parsing.text_reader import NotACallError, OutputEndedError, Steps, TextReader

_PLAIN = re.compile(r"[\s,:]+")
_NUMBER = re.compile(r"[-+.0-9][-+.0-9eE]*")
_MORE_OF_NUMBER = re.compile(r"[-+.0-9eE]+")
_LETTERS = re.compile(r"[A-Za-z]+")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_SCALAR = re.compile(r"[A-Za-z0-9+.\-]+")
_STRING_TEXT = re.compile(r'[^"\\\x00-\x1f]*')
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_CLOSING = {"{": "}", "[": "]"}


def escaped(text: str) -> str:
    """Return the text as it is written inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class JsonScanner:
    """A scanner for one JSON value. It finds the end of the value, and repairs what models often write wrongly.

    Line breaks and backslashes in strings are escaped, and Python's words are replaced, so that the arguments can be parsed.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        """Closing brackets that are still to come, innermost last."""
        self._in_string = False
        self._in_scalar = False
        self._in_number = False
        self._escape = ""
        """Beginning of an escape in a string, not part of the output yet."""
        self._word = ""
        """Beginning of a word such as `true`, not part of the output yet."""
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
        """Return what was held back, at the end of the output."""
        rest, self._escape, self._word = self._word + self._escape, "", ""
        return rest

    def _scan_structure(self, text: str, position: int, repaired: list[str]) -> int:
        if not self._open:
            return self._scan_beginning(text, position, repaired)
        if letters := None if self._in_number else _LETTERS.match(text, position):
            self._word += letters.group()
            return letters.end()
        if self._word:
            return self._end_word(position, repaired)
        if number := (_MORE_OF_NUMBER if self._in_number else _NUMBER).match(text, position):
            self._in_number = True
            repaired.append(number.group())
            return number.end()
        self._in_number = False
        if plain := _PLAIN.match(text, position):
            repaired.append(plain.group())
            return plain.end()
        return self._scan_mark(text, position, repaired)

    def _end_word(self, position: int, repaired: list[str]) -> int:
        word = _WORDS.get(self._word)
        if word is None:
            self.is_broken = True
        else:
            repaired.append(word)
            self._word = ""
        return position

    def _scan_mark(self, text: str, position: int, repaired: list[str]) -> int:
        character = text[position]
        if character == '"':
            self._in_string = True
        elif character in _CLOSING:
            self._open.append(_CLOSING[character])
        elif character == self._open[-1]:
            self._open.pop()
            self.is_complete = not self._open
        else:
            self.is_broken = True
            return position
        repaired.append(character)
        return position + 1

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
            self._open.append(_CLOSING[character])
        else:
            self.is_broken = True
            return position
        repaired.append(character)
        return position + 1

    def _scan_string(self, text: str, position: int, repaired: list[str]) -> int:
        if self._escape:
            return self._scan_escape(text, position, repaired)
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
        if is_first and character in '"\\/bfnrt':
            repaired.append(self._escape + character)
            self._escape = ""
        elif (is_first and character == "u") or (not is_first and character in "0123456789abcdefABCDEF"):
            self._escape += character
            if len(self._escape) == 6:
                repaired.append(self._escape)
                self._escape = ""
        else:  # no escape of JSON: the backslash itself is meant
            repaired.append("\\" + self._escape)
            self._escape = ""
            return position
        return position + 1


def stream_object(reader: TextReader, begin: Callable[[], None], emit: Callable[[str], None]) -> Steps[None]:
    """Read a JSON object, and emit its text as it arrives. Raises NotACallError and OutputEndedError.

    `begin` is called when it is certain that the text begins like an object.
    """
    scanner = JsonScanner()
    yield from reader.expect("{")
    scanner.scan("{")
    yield from reader.skip_space()
    if (yield from reader.next_character()) not in '"}':
        raise NotACallError
    begin()
    emit("{")
    while True:
        text, length = scanner.scan(reader.text)
        reader.take_reported(length)
        if text:
            emit(text)
        if scanner.is_complete:
            return
        if scanner.is_broken or reader.has_ended:
            emit(scanner.take_rest())
            raise NotACallError if scanner.is_broken else OutputEndedError
        yield


def read_json(reader: TextReader) -> Steps[str]:
    """Read a JSON value, and return its text. Raises NotACallError and OutputEndedError."""
    scanner = JsonScanner()
    texts: list[str] = []
    while True:
        text, length = scanner.scan(reader.text)
        reader.take(length)
        texts.append(text)
        if scanner.is_complete:
            return "".join(texts)
        if scanner.is_broken:
            raise NotACallError
        yield from reader.more()


def read_json_string(reader: TextReader, max_length: int) -> Steps[str]:
    """Read a JSON string of at most this many characters, and return its value. Raises NotACallError and OutputEndedError."""
    while True:
        if reader.text and reader.text[0] != '"':
            raise NotACallError
        found = _STRING.match(reader.text)
        if (found.end() if found else len(reader.text)) > max_length:
            raise NotACallError
        if found:
            try:
                value = json.loads(reader.take(found.end()))
            except ValueError:
                raise NotACallError from None
            if not isinstance(value, str) or not value.isprintable():
                raise NotACallError
            return value
        yield from reader.more()
