"""The `response_template` of a checkpoint, by which transformers parses outputs, as a description of ours.

It has fields (`thinking`, `content`, `tool_calls`), each between texts or regular expressions. What is no fixed text or has no
counterpart in a description is refused, so that the format is chosen by the chat template instead.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pagoda.models.errors import ResponseTemplateError
from pagoda.models.output_formats.description import (
    CallSyntax,
    OutputFormat,
    Piece,
    ReasoningSyntax,
    Slot,
    described_formats,
)

_NAME = "response_template"
_REASONING_FIELDS = ("thinking", "reasoning_content", "reasoning")
_KNOWN_FIELDS = {*_REASONING_FIELDS, "content", "tool_calls"}

# Parts of a regular expression that stand for a fixed text, for any whitespace, or for a named group.
_ATOM = re.compile(
    r"(?P<space>(?:\\s|\\n| )[*+?])|(?P<group>\(\?P<(?P<name>\w+)>(?:[^()\\]|\\.)*\))|(?P<ahead>\(\?[=!](?:[^()\\]|\\.)*\))"
    r"|\\n(?P<newline>)|\\(?P<escaped>[^A-Za-z0-9])|(?P<plain>[^\\.^$*+?{}\[\]()|])"
)
_TAG_VALUE = re.compile(r"\(\?P<value>[^()]*\)")


def read_response_template(described: Any) -> OutputFormat:
    """Return the format that the template describes. Raises ResponseTemplateError with the reason if it cannot be used."""
    fields = described.get("fields") if isinstance(described, Mapping) else None
    if not isinstance(fields, Mapping) or not all(isinstance(field, Mapping) for field in fields.values()):
        raise ResponseTemplateError("it has no fields")
    if described.get("version", 1) != 1:
        raise ResponseTemplateError(f"its version is {described['version']!r} (known: 1)")
    if unknown := sorted(set(fields) - _KNOWN_FIELDS):
        raise ResponseTemplateError(f"it has unknown fields: {', '.join(unknown)[:200]}")
    reasoning = next((fields[name] for name in _REASONING_FIELDS if name in fields), None)
    content, calls = fields.get("content", {}), fields.get("tool_calls")
    output_format = OutputFormat(
        name=_NAME,
        reasoning=None if reasoning is None else _reasoning(reasoning),
        answer_markers=tuple(text for side in ("open", "close") for text in _texts(content, side)),
    )
    return output_format if calls is None else _with_calls(output_format, calls)


def _reasoning(field: Mapping[str, Any]) -> ReasoningSyntax:
    opened, closed = _texts(field, "open"), _texts(field, "close")
    if not opened or not closed:
        raise ResponseTemplateError("its reasoning is not between two texts")
    return ReasoningSyntax(open=opened[0], close=closed[0], again=field.get("repeats") is True)


def _with_calls(output_format: OutputFormat, field: Mapping[str, Any]) -> OutputFormat:
    calls = _calls(field)
    known = next((each for each in described_formats().values() if each.calls and _are_same(each.calls, calls)), None)
    if known is None:
        if Slot.PARAMETERS in calls.call:
            raise ResponseTemplateError("its parameters are written as no known format writes them")
        return replace(output_format, calls=calls)
    # A description of ours also knows what the template does not say, such as the length of ids.
    return replace(output_format, calls=known.calls, other_calls=known.other_calls)


def _calls(field: Mapping[str, Any]) -> CallSyntax:
    opened, closed = _pieces(field, "open"), _pieces(field, "close")
    if not opened or isinstance(opened[0], Slot) or any(isinstance(piece, Slot) for piece in closed):
        raise ResponseTemplateError("its calls do not begin with a text")
    name, arguments = _function_keys(field)
    options = field.get("content_args", {})
    if not isinstance(options, Mapping):
        raise ResponseTemplateError("`content_args` must be an object")
    match field.get("content", "text"):
        case "json" if name == "{name}" and arguments == "{content}" and Slot.NAME in opened:
            if quote := _quote(options):
                return CallSyntax(call=(*opened, Slot.BRACED, *closed), quote=quote)
            return CallSyntax(call=(*opened, Slot.ARGUMENTS, *closed))
        case "json" if not options and Slot.NAME not in opened:
            one = CallSyntax(
                call=(*opened, Slot.OBJECT, *closed), name_key=_last_key(name), arguments_key=_last_key(arguments)
            )
            if not field.get("transform_each"):
                return one
            begin, end = (*map(str, opened), "["), ("]", *map(str, closed))
            return replace(one, begin=begin, call=(Slot.OBJECT,), separator=", ", end=end)
        case "xml-inline" if Slot.NAME in opened:
            parameter = _parameter(str(options.get("tag_pattern", "")))
            return CallSyntax(call=(*opened, Slot.PARAMETERS, *closed), parameter=parameter)
    raise ResponseTemplateError("its calls are written as no description of ours can say")


def _function_keys(field: Mapping[str, Any]) -> tuple[str, str]:
    """Return the places of the name and of the arguments of a call."""
    transform = field.get("transform")
    function = transform.get("function") if isinstance(transform, Mapping) else None
    if function == "{content}" or (function is None and transform in (None, "{content}")):
        return "{name}", "{arguments}"
    if isinstance(function, Mapping):
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and isinstance(arguments, str):
            return name, arguments
    raise ResponseTemplateError("its calls have no name and arguments")


def _last_key(place: str) -> str:
    """Return the key of a place such as `{content.name}`."""
    return place.strip("{}").rpartition(".")[2]


def _quote(options: Mapping[str, Any]) -> str:
    """Return the marker around strings, if the arguments are JSON with keys without quotes."""
    match options:
        case {"unquoted_keys": True, "string_delims": [[str(opened), str(closed)]]} if opened == closed:
            return opened
        case {}:
            return ""
    raise ResponseTemplateError("its calls have strings or keys of an unknown form")


def _parameter(tag_pattern: str) -> tuple[Piece, ...]:
    before, *after = _TAG_VALUE.split(tag_pattern)
    if len(after) != 1:
        raise ResponseTemplateError("its parameters have no value")
    pieces = (*_from_pattern(before), Slot.VALUE, *_from_pattern(after[0]))
    if Slot.KEY not in pieces:
        raise ResponseTemplateError("its parameters have no key")
    return pieces


def _texts(field: Mapping[str, Any], side: str) -> list[str]:
    """Return the texts that open or close a field. Raises ResponseTemplateError if they are not fixed."""
    return [piece for piece in _pieces(field, side) if not isinstance(piece, Slot)]


def _pieces(field: Mapping[str, Any], side: str) -> tuple[Piece, ...]:
    if isinstance(pattern := field.get(f"{side}_pattern"), str):
        return _from_pattern(pattern)
    given = field.get(side)
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ResponseTemplateError(f"`{side}` must be a text or a list of texts, and none of them may be empty")
    return tuple(texts[:1])


def _from_pattern(pattern: str) -> tuple[Piece, ...]:
    """Return the texts and the named groups of a regular expression. Raises ResponseTemplateError for any other."""
    pieces: list[Piece] = []
    text, position = "", 0
    while position < len(pattern):
        atom = _ATOM.match(pattern, position)
        if atom is None:
            raise ResponseTemplateError(f"the pattern {pattern[:80]!r} is no fixed text")
        position = atom.end()
        if atom["space"] or atom["group"]:
            pieces += [text] if text else []
            text = ""
        if atom["group"]:
            slot = {"name": Slot.NAME, "key": Slot.KEY}.get(atom["name"])
            if slot is None:
                raise ResponseTemplateError(f"the pattern {pattern[:80]!r} has an unknown group {atom['name']!r}")
            pieces.append(slot)
        elif not atom["space"] and not atom["ahead"]:
            text += "\n" if atom["newline"] is not None else atom["escaped"] or atom["plain"] or ""
    return (*pieces, text) if text else tuple(pieces)


def _are_same(described: CallSyntax, read: CallSyntax) -> bool:
    """Return True if two descriptions are of the same calls, apart from whitespace and the closing texts of a call."""
    if Slot.PARAMETERS in read.call:
        return (
            _shape(described.call[: _position(described)]) == _shape(read.call[: _position(read)])
            and _shape(described.parameter) == _shape(read.parameter)
            and not described.begin
        )
    ours, theirs = (
        (_shape(calls.begin), _shape(calls.call), _shape(calls.end), calls.quote, calls.name_key, calls.arguments_key)
        for calls in (described, read)
    )
    return ours == theirs


def _position(calls: CallSyntax) -> int:
    return calls.call.index(Slot.PARAMETERS) if Slot.PARAMETERS in calls.call else 0


def _shape(pieces: tuple[Piece, ...]) -> str:
    return "".join("".join(piece.split()) for piece in pieces)
