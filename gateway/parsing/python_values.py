"""Literals of Python as JSON: strings, numbers, True, False, None, lists, tuples, sets and dictionaries."""

import json
import re

from gateway.parsing.json_scanner import WORDS

MAX_DEPTH = 64

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<number>[+-]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"""
    r"""|(?P<word>[A-Za-z]+)|(?P<mark>[\[\](){}:,]))""",
    re.DOTALL,
)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_ESCAPE = re.compile(
    r"\\(?:x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<octal>[0-7]{1,3})|(?P<c>.))",
    re.DOTALL,
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_ESCAPED |= {character: character for character in "\\'\""}


def python_to_json(text: str) -> str | None:
    """Return the literal as JSON text, or None if the text is no literal that JSON can represent."""
    try:
        value, position = _value(text, 0, MAX_DEPTH)
    except ValueError:
        return None
    return value if not text[position:].strip() else None


def python_string(body: str) -> str:
    """Return the text of a string, given what is between its quotes."""
    if "\\" not in body:
        return body
    text = _ESCAPE.sub(_unescaped, body)
    # Two escapes of a surrogate pair are one character; a lone surrogate is none.
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _value(text: str, position: int, depth: int) -> tuple[str, int]:
    token = _token(text, position)
    position = token.end()
    if string := token["string"]:
        return json.dumps(python_string(string[1:-1]), ensure_ascii=False), position
    if number := token["number"]:
        return _number(number), position
    if word := token["word"]:
        if word not in WORDS:
            raise ValueError(f"{word} is no value")
        return WORDS[word], position
    opening = token["mark"]
    if opening not in _CLOSING or not depth:
        raise ValueError("no value")
    return _members(text, position, opening, depth - 1)


def _members(text: str, position: int, opening: str, depth: int) -> tuple[str, int]:
    members: list[str] = []
    has_keys = opening == "{"
    while True:
        token = _token(text, position)
        if token["mark"] == _CLOSING[opening]:
            position = token.end()
            break
        if members:
            if token["mark"] != ",":
                raise ValueError("a comma is missing")
            position = token.end()
            if _token(text, position)["mark"] == _CLOSING[opening]:
                continue
        member, position = _value(text, position, depth)
        token = _token(text, position)
        if opening == "{" and not members:
            has_keys = token["mark"] == ":"  # else it is a set
        if has_keys:
            if not member.startswith('"') or token["mark"] != ":":
                raise ValueError("a key must be a string")
            value, position = _value(text, token.end(), depth)
            member = f"{member}: {value}"
        members.append(member)
    return f"{{{', '.join(members)}}}" if has_keys else f"[{', '.join(members)}]", position


def _token(text: str, position: int) -> re.Match[str]:
    token = _TOKEN.match(text, position)
    if token is None:
        raise ValueError("no literal")
    return token


def _number(text: str) -> str:
    digits = text.replace("_", "").removeprefix("+")
    try:
        json.loads(digits)
    except ValueError:
        digits = repr(float(digits))  # `.5`, `5.`, `007`
    if "inf" in digits or "nan" in digits:
        raise ValueError("too large")
    return digits


def _unescaped(escape: re.Match[str]) -> str:
    if code := escape["x"] or escape["u"] or escape["U"]:
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else escape.group()
    if escape["octal"]:
        return chr(int(escape["octal"], 8))
    return _ESCAPED.get(escape["c"], escape.group())
