"""JSON text that arrives in pieces."""

import json
import re
from collections.abc import Callable

from gateway.parsing.json_scanner import JsonScanner
from gateway.parsing.text_reader import NotACallError, OutputEndedError, Steps, TextReader

_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


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
        if scanner.is_broken:
            reader.text = scanner.take_rest() + reader.text
            raise NotACallError
        if reader.has_ended:
            emit(scanner.take_rest())
            raise OutputEndedError
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
