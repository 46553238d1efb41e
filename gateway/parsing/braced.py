"""Arguments in braces that arrive in pieces: keys without quotes, and texts between two markers."""

import json
import re

from gateway.parsing.extent import Extent, read_extent
from gateway.parsing.json_scanner import WORDS, escaped
from gateway.parsing.markers import MarkerSet
from gateway.parsing.open_call import OpenCall
from gateway.parsing.text_reader import NotACallError, Steps, TextReader
from gateway.parsing.value_types import to_json
from gateway.prompts.parameter_types import parameter_types

MAX_KEY = 256
MAX_DEPTH = 64

_KEY = re.compile(r"[^:{}\[\],\ud800-\udfff]+")
_WORD = re.compile(r"[^,{}\[\]:]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class BracedReader:
    """A reader of the arguments of one call, with their braces."""

    def __init__(self, reader: TextReader, call: OpenCall, quote: str) -> None:
        self._reader = reader
        self._call = call
        self._quote = quote

    def read_arguments(self) -> Steps[None]:
        """Read the arguments. Raises NotACallError and OutputEndedError."""
        reader, call = self._reader, self._call
        yield from reader.skip_space()
        yield from reader.expect("{")
        call.begin_object()
        num_arguments = 0
        while True:
            yield from reader.skip_space()
            if (yield from reader.match("}")):
                break
            key = (yield from self._read_key()).strip()
            yield from reader.expect(":")
            yield from reader.skip_space()
            call.add_arguments(f"{', ' if num_arguments else ''}{json.dumps(key, ensure_ascii=False)}: ")
            reader.report()
            num_arguments += 1
            yield from self._read_value(key)
            yield from reader.skip_space()
            yield from reader.match(",")
        call.add_arguments("}")
        reader.report()

    def _read_key(self) -> Steps[str]:
        """Read a key. Some models put it between the markers of texts."""
        if not (yield from self._reader.match(self._quote)):
            return (yield from self._reader.read_pattern(_KEY, MAX_KEY))
        key = yield from read_extent(self._reader, Extent(quotes=(), ends=self._quote[0], has_escapes=False))
        yield from self._reader.expect(self._quote)
        return key

    def _read_value(self, key: str) -> Steps[None]:
        if (yield from self._reader.match(self._quote)):
            types = parameter_types(self._call.tool.parameters if self._call.tool else {}, key)
            yield from self._read_text(types)
            return
        text = yield from read_extent(self._reader, Extent(quotes=(self._quote,), ends=",}", has_escapes=False))
        self._call.add_arguments(braced_to_json(text, self._quote))
        self._reader.report()

    def _read_text(self, types: frozenset[str]) -> Steps[None]:
        """Read a text up to the marker after it. Some models put the marker around all values, also around numbers."""
        is_string = not types or "string" in types
        markers = MarkerSet((self._quote,))
        self._reader.report()
        if is_string:
            self._call.add_arguments('"')
        texts: list[str] = []
        while True:
            length, marker = markers.find(self._reader.text)
            if is_string:
                self._call.add_arguments(escaped(self._reader.take_reported(length)))
            else:
                texts.append(self._reader.take(length))
            if marker is not None:
                break
            yield from self._reader.more()
        self._reader.take(len(self._quote))
        self._call.add_arguments('"' if is_string else to_json("".join(texts), types))
        self._reader.report()


def braced_to_json(text: str, quote: str) -> str:
    """Return a value as JSON text. What is no value is a string."""
    try:
        value, position = _value(text, 0, quote, MAX_DEPTH)
        if not text[position:].strip():
            return value
    except NotACallError:
        pass
    return json.dumps(text.strip(), ensure_ascii=False)


def _value(text: str, position: int, quote: str, depth: int) -> tuple[str, int]:
    position = _after_space(text, position)
    if text.startswith(quote, position):
        return _quoted(text, position, quote)
    opening = text[position : position + 1]
    if opening in ("{", "["):
        if not depth:
            raise NotACallError
        return _members(text, position + 1, opening, quote, depth - 1)
    if (found := _WORD.match(text, position)) is None:
        raise NotACallError
    word = found.group().strip()
    number = word + "0" if word.endswith(".") else word
    is_number = _NUMBER.fullmatch(number) is not None
    return number if is_number else WORDS.get(word, json.dumps(word, ensure_ascii=False)), found.end()


def _members(text: str, position: int, opening: str, quote: str, depth: int) -> tuple[str, int]:
    closing = "}" if opening == "{" else "]"
    members: list[str] = []
    while True:
        position = _after_space(text, position)
        if text.startswith(closing, position):
            break
        if members:
            if not text.startswith(",", position):
                raise NotACallError
            position = _after_space(text, position + 1)
        key = ""
        if opening == "{":
            key, position = _key(text, position, quote)
        member, position = _value(text, position, quote, depth)
        members.append(key + member)
    return f"{opening}{', '.join(members)}{closing}", position + 1


def _key(text: str, position: int, quote: str) -> tuple[str, int]:
    """Return a key as JSON, with its colon."""
    if text.startswith(quote, position):
        key, position = _quoted(text, position, quote)
    elif found := _KEY.match(text, position):
        key, position = json.dumps(found.group().strip(), ensure_ascii=False), found.end()
    else:
        raise NotACallError
    position = _after_space(text, position)
    if not text.startswith(":", position):
        raise NotACallError
    return f"{key}: ", position + 1


def _quoted(text: str, position: int, quote: str) -> tuple[str, int]:
    end = text.find(quote, position + len(quote))
    if end < 0:
        raise NotACallError
    return json.dumps(text[position + len(quote) : end], ensure_ascii=False), end + len(quote)


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
