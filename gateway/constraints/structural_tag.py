"""Text rules that are structural tags, xgrammar's form: text in which some parts have a form of their own.

Two forms are known: vLLM's older one, {"structures": [{"begin", "schema", "end"}], "triggers": [...]}, and xgrammar's,
{"format": ...}, a tree of parts that each have a type.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.constraints.gbnf import MAX_GBNF_CHARACTERS
from gateway.constraints.grammar_rule import grammar_rule
from gateway.constraints.json_rule import STYLE, JSONStyle, checked_schema, json_expression
from gateway.constraints.lark import ANY_TEXT, literal, one_of
from gateway.constraints.regex_rule import regex_terminal
from gateway.constraints.text_rule import TextRule, refuse_long
from gateway.errors import InvalidRequestError
from gateway.http.schema import shown
from pagoda.wire.constraint import MAX_MARKER_BYTES, MAX_TRIGGERS

MAX_PARTS = 1000
MAX_NESTING = 50
TYPES = (
    "const_string",
    "json_schema",
    "any_text",
    "regex",
    "grammar",
    "sequence",
    "or",
    "optional",
    "plus",
    "star",
    "tag",
    "triggered_tags",
    "tags_with_separator",
)

_Object = Mapping[str, Any]
_Ends = tuple[str, ...]
"""Texts of which one must follow a part; empty if nothing has to."""


def structural_tag_rule(tag: _Object | str, field: str, style: JSONStyle = STYLE) -> TextRule:
    """Return the rule for the tag. Raises InvalidRequestError for a part that is not valid or not supported."""
    if isinstance(tag, str):
        refuse_long(tag, field)
        try:
            tag = json.loads(tag)
        except (ValueError, RecursionError) as error:
            raise _wrong(field, f"must be an object, or JSON as text (not JSON: {error})") from None
    tag = _object(tag, field)
    if "format" in tag:
        part, path = _object(tag["format"], f"{field}.format"), f"{field}.format"
    elif "structures" in tag:
        part, path = {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": _tags(tag, field)}, field
    else:
        raise _wrong(field, "needs `format`, or `structures` and `triggers`")
    writer = _Writer(field, style)
    is_free = part.get("type") == "triggered_tags" and not part.get("at_least_one") and not part.get("stop_after_first")
    if is_free:
        # Between the tags the text is free, so only a worker that sees a trigger has to apply the grammar.
        start = one_of(list(writer.write_triggered(part, path)))
        triggers = tuple(part["triggers"])
    else:
        start, triggers = writer.write(part, path, ()), ()
    lark = "\n".join([f"start: {start}", *writer.rules])
    return TextRule(lark=lark, field=field, parts=writer.grammars, triggers=triggers)


def _tags(tag: _Object, field: str) -> list[_Object]:
    """Return the tags of vLLM's older form as those of the new one."""
    tags: list[_Object] = []
    for index, structure in enumerate(_list(tag, "structures", field)):
        path = f"{field}.structures.{index}"
        content = {"type": "json_schema", "json_schema": _object(structure, path).get("schema", {})}
        tags.append({"begin": _text(structure, "begin", path), "content": content, "end": structure.get("end", "")})
    return tags


class _Writer:
    """The writer of one tag's grammar. `rules` and `grammars` are what the expressions it returns need."""

    def __init__(self, field: str, style: JSONStyle) -> None:
        self.rules: list[str] = []
        self.grammars: dict[str, str] = {}
        self._field = field
        self._style = style
        self._num_parts = 0
        self._num_characters = 0

    def write(self, part: Any, path: str, ends: _Ends) -> str:
        """Return the part, and one of the texts `ends` after it, as an expression."""
        self._num_parts += 1
        if self._num_parts > MAX_PARTS or path.count(".") > 2 * MAX_NESTING:
            raise _wrong(self._field, f"more than {MAX_PARTS} parts, or nested more than {MAX_NESTING} deep")
        part = _object(part, path)
        match part.get("type"):
            case "any_text":
                return self._any_text(part, path, ends)
            case "sequence":
                return self._sequence(_list(part, "elements", path), path, ends)
            case "or":
                elements = enumerate(_list(part, "elements", path))
                return one_of([self.write(each, f"{path}.elements.{index}", ends) for index, each in elements])
            case "tag":
                return f"{literal(_text(part, 'begin', path))} {self._tag_rest(part, path)} {_one_end(ends)}".rstrip()
            case "triggered_tags":
                return self._triggered_tags(part, path, ends)
            case "tags_with_separator":
                return f"{self._separated_tags(part, path)} {_one_end(ends)}".rstrip()
        return f"{self._plain(part, path)} {_one_end(ends)}".rstrip()

    def write_triggered(self, part: _Object, path: str) -> list[str]:
        """Return, for each trigger, free text up to it and the rest of the tags that it begins."""
        triggers, written = _list(part, "triggers", path), []
        if len(triggers) > MAX_TRIGGERS:
            raise _wrong(f"{path}.triggers", f"may have at most {MAX_TRIGGERS} entries (got {len(triggers)})")
        if len(_list(part, "tags", path)) > MAX_PARTS:
            raise _wrong(f"{path}.tags", f"may have at most {MAX_PARTS} entries (got {len(part['tags'])})")
        tags = [(f"{path}.tags.{index}", tag) for index, tag in enumerate(_list(part, "tags", path))]
        if _object(part, path).get("excludes"):
            raise _wrong(f"{path}.excludes", "not supported")
        for index, trigger in enumerate(triggers):
            if not isinstance(trigger, str) or not trigger:
                raise _wrong(f"{path}.triggers.{index}", "must be a string that is not empty")
            if (length := len(trigger.encode())) > MAX_MARKER_BYTES:
                raise _wrong(f"{path}.triggers.{index}", f"may have at most {MAX_MARKER_BYTES} bytes (got {length})")
            begun = [(where, tag) for where, tag in tags if _text(tag, "begin", where).startswith(trigger)]
            if not begun:
                raise _wrong(f"{path}.triggers.{index}", f"no tag begins with {shown(trigger)}")
            rests = [
                f"{literal(rest) if (rest := tag['begin'][len(trigger) :]) else ''} {self._tag_rest(tag, where)}"
                for where, tag in begun
            ]
            written.append(f"{self._until((trigger,))} {one_of(rests)}")
        for where, tag in tags:
            if not any(tag["begin"].startswith(trigger) for trigger in triggers):
                raise _wrong(f"{where}.begin", "must begin with one of the triggers")
        return written

    def _plain(self, part: _Object, path: str) -> str:
        match part.get("type"):
            case "const_string":
                return literal(_text(part, "value", path))
            case "json_schema":
                if part.get("style", "json") != "json":
                    raise _wrong(f"{path}.style", 'only "json" is supported')
                self._count(part.get("json_schema"), f"{path}.json_schema")
                schema = checked_schema(part.get("json_schema", {}), f"{path}.json_schema", self._style)
                return self._rule(json_expression(schema, f"{path}.json_schema", self._style))
            case "regex":
                return self._lexeme(regex_terminal(_text(part, "pattern", path)))
            case "grammar":
                self._count(part.get("grammar"), f"{path}.grammar")
                name = f"text_{len(self.grammars)}"
                self.grammars[name] = grammar_rule(_text(part, "grammar", path), f"{path}.grammar").lark
                return f"@{name}"
            case "optional":
                return f"({self.write(part.get('content'), f'{path}.content', ())})?"
            case "plus":
                return f"({self.write(part.get('content'), f'{path}.content', ())})+"
            case "star":
                return f"({self.write(part.get('content'), f'{path}.content', ())})*"
        raise _wrong(f"{path}.type", f"must be one of {', '.join(TYPES)} (got {shown(part.get('type'))})")

    def _count(self, text: Any, path: str) -> None:
        """Raise InvalidRequestError if the texts so far are so long that reading them would hold the event loop."""
        self._num_characters += len(text) if isinstance(text, str) else 0
        if self._num_characters > MAX_GBNF_CHARACTERS:
            raise _wrong(path, f"all texts of grammars and schemas may have at most {MAX_GBNF_CHARACTERS} characters")

    def _any_text(self, part: _Object, path: str, ends: _Ends) -> str:
        for name in ("excludes", "max_tokens", "max_chars"):
            if part.get(name):
                raise _wrong(f"{path}.{name}", "not supported")
        return self._until(ends) if ends else self._lexeme(ANY_TEXT)

    def _sequence(self, elements: Sequence[Any], path: str, ends: _Ends) -> str:
        written, taken = [], 0
        for index, element in enumerate(elements):
            where, is_last = f"{path}.elements.{index}", index == len(elements) - 1
            element = _object(element, where)
            if taken:  # the element before, which was any text, has its beginning already
                element, taken = _without_beginning(element), 0
            if element.get("type") == "any_text" and not is_last:
                following = _object(elements[index + 1], where).get
                beginning = following("value") if following("type") == "const_string" else following("begin")
                if not isinstance(beginning, str) or not beginning:
                    raise _wrong(where, "any_text must be followed by a const_string or a tag, which ends it")
                written.append(self.write(element, where, (beginning,)))
                taken = 1
            else:
                written.append(self.write(element, where, ends if is_last else ()))
        return " ".join(written)

    def _tag_rest(self, tag: Any, path: str) -> str:
        """Return the content and the end of a tag."""
        tag = _object(tag, path)
        end = tag.get("end", "")
        ends = tuple(end) if isinstance(end, list) else (end,)
        if not all(isinstance(each, str) for each in ends):
            raise _wrong(f"{path}.end", "must be a string or a list of strings")
        return self.write(tag.get("content"), f"{path}.content", ends if all(ends) else ())

    def _triggered_tags(self, part: _Object, path: str, ends: _Ends) -> str:
        tags = one_of(self.write_triggered(part, path))
        tail = self._until(ends) if ends else self._lexeme(ANY_TEXT)
        if part.get("stop_after_first"):
            with_tag = f"{tags} {_one_end(ends)}"
            return with_tag if part.get("at_least_one") else f"({with_tag} | {tail})"
        return f"({tags}){'+' if part.get('at_least_one') else '*'} {tail}"

    def _separated_tags(self, part: _Object, path: str) -> str:
        tags = one_of(
            [
                self.write({**_object(tag, path), "type": "tag"}, f"{path}.tags.{index}", ())
                for index, tag in enumerate(_list(part, "tags", path))
            ]
        )
        separator = literal(part["separator"]) if part.get("separator") else ""
        more = "" if part.get("stop_after_first") else f"({separator} {tags})*"
        return f"({tags} {more})" if part.get("at_least_one") else f"({tags} {more})?"

    def _until(self, ends: _Ends) -> str:
        """Return any text up to the first of the ends, with that end, as one lexeme."""
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}[lazy]: {ANY_TEXT} {one_of([literal(end) for end in ends])}")
        return name

    def _rule(self, expression: str) -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}: {expression}")
        return name

    def _lexeme(self, expression: str) -> str:
        name = f"PART_{len(self.rules)}"
        self.rules.append(f"{name}: {expression}")
        return name


def _one_end(ends: _Ends) -> str:
    return one_of([literal(end) for end in ends]) if ends else ""


def _without_beginning(element: _Object) -> _Object:
    return {**element, "value": ""} if element.get("type") == "const_string" else {**element, "begin": ""}


def _object(value: Any, path: str) -> _Object:
    if not isinstance(value, Mapping):
        raise _wrong(path, f"must be an object (got {shown(value)})")
    return value


def _list(part: _Object, name: str, path: str) -> Sequence[Any]:
    value = part.get(name)
    if not isinstance(value, list) or not value:
        raise _wrong(f"{path}.{name}", f"must be a list that is not empty (got {shown(value)})")
    return value


def _text(part: Any, name: str, path: str) -> str:
    value = _object(part, path).get(name)
    if not isinstance(value, str):
        raise _wrong(f"{path}.{name}", f"must be a string (got {shown(value)})")
    return value


def _wrong(path: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: {problem}", param=path)
