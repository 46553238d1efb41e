"""The conversion of grammars in GBNF, llama.cpp's form of BNF, to llguidance's Lark.

llguidance reads texts lexeme by lexeme, and a lexeme is as long as it can be, while GBNF has only characters. So as much as
possible becomes one lexeme: all rules that do not contain themselves.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_GBNF_CHARACTERS = 1 << 16
"""Converting this many takes about 100 to 200 ms, which hold the event loop."""
MAX_NESTING = 100
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NEXT_RULE = re.compile(r"[A-Za-z0-9_-]+[ \t]*::=")
_COUNT = re.compile(r"\{[ \t]*(\d+)[ \t]*(?:(,)[ \t]*(\d*)[ \t]*)?\}")
_ESCAPES = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "\\": "\\",
    '"': '"',
    "[": "[",
    "]": "]",
    "-": "-",
    "^": "^",
    "/": "/",
    "'": "'",
}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


class GBNFError(ValueError):
    """The error for a text that is no grammar in GBNF."""


@dataclass(slots=True)
class _Rule:
    """A rule: a function that writes it in Lark with the given names of rules, and the rules that it uses."""

    write: Callable[[Mapping[str, str]], str]
    uses: set[str] = field(default_factory=set)


_Writer = Callable[[Mapping[str, str]], str]


def lark_of_gbnf(text: str) -> str:
    """Return the grammar in Lark. Raises GBNFError with the line and the reason if it is not valid."""
    rules = _Parser(text).parse_rules()
    if "root" not in rules:
        raise GBNFError("it has no rule `root`")
    recursive = _recursive(rules)
    # Lark's names of lexemes are in upper case. Rules are numbered, since names may differ only in what Lark does not allow.
    names = {name: f"rule_{index}" if name in recursive else f"LEXEME_{index}" for index, name in enumerate(rules)}
    lines = [f"{names[name]}: {rule.write(names)}" for name, rule in rules.items()]
    return "\n".join([f"start: {names['root']}", *lines])


def _recursive(rules: Mapping[str, _Rule]) -> set[str]:
    """Return the rules that contain themselves, and those that contain one of them."""
    used_by: dict[str, list[str]] = {name: [] for name in rules}
    for name, rule in rules.items():
        for used in rule.uses:
            used_by[used].append(name)
    num_unsettled = {name: len(rule.uses) for name, rule in rules.items()}
    settled = [name for name, number in num_unsettled.items() if number == 0]
    while settled:
        for name in used_by[settled.pop()]:
            num_unsettled[name] -= 1
            if num_unsettled[name] == 0:
                settled.append(name)
    return {name for name, number in num_unsettled.items() if number}


class _Parser:
    """A parser that reads the text once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._uses: set[str] = set()

    def parse_rules(self) -> dict[str, _Rule]:
        rules: dict[str, _Rule] = {}
        self._skip(_SPACE_AND_LINES)
        while self._position < len(self._text):
            name = self._name()
            self._skip(_SPACE)
            self._expect("::=")
            self._skip(_SPACE_AND_LINES)
            self._uses = set()
            rules[name] = _Rule(self._alternatives(0), self._uses)
            if not self._is_at_end_of_rule():
                raise self._error(f"unexpected {self._text[self._position : self._position + 10]!r}")
            self._skip(_SPACE_AND_LINES)
        for rule in rules.values():
            if missing := rule.uses - rules.keys():
                raise GBNFError(f"the rule `{min(missing)}` does not exist")
        return rules

    def _is_at_end_of_rule(self) -> bool:
        following = self._text[self._position : self._position + 1]
        return following in ("", "\r", "\n") or _NEXT_RULE.match(self._text, self._position) is not None

    def _alternatives(self, depth: int) -> _Writer:
        if depth > MAX_NESTING:
            raise self._error(f"more than {MAX_NESTING} parentheses inside each other")
        branches = [self._sequence(depth)]
        while self._take("|"):
            self._skip(_SPACE_AND_LINES)
            branches.append(self._sequence(depth))
        return lambda names: " | ".join(write(names) for write in branches)

    def _sequence(self, depth: int) -> _Writer:
        items: list[_Writer] = []
        while (item := self._item(depth)) is not None:
            items.append(self._repeated(item))
            self._skip_between(depth)
        return lambda names: " ".join(write(names) for write in items) or '""'

    def _skip_between(self, depth: int) -> None:
        """Skip spaces, and line breaks where they do not end the rule: in parentheses, and before `|` on the next line."""
        self._skip(_SPACE_AND_LINES if depth else _SPACE)
        after_lines = _SPACE_AND_LINES.match(self._text, self._position)
        if after_lines is not None and self._text.startswith("|", after_lines.end()):
            self._position = after_lines.end()

    def _item(self, depth: int) -> _Writer | None:
        match self._text[self._position : self._position + 1]:
            case '"':
                literal = json.dumps(self._literal())
                return lambda names: literal
            case "[":
                characters = self._character_class()
                return lambda names: characters
            case ".":
                self._position += 1
                return lambda names: "/(?s:.)/"
            case "(":
                return self._group(depth)
            case "<" | "!":
                raise self._error("tokens such as `<think>` or `<[7]>` are not supported; write a Lark grammar")
        if _NAME.match(self._text, self._position) is None:
            return None
        if _NEXT_RULE.match(self._text, self._position):
            return None
        name = self._name()
        if self._text.startswith("(", self._position):
            raise self._error(f"`{name}(…)` is not supported")
        self._uses.add(name)
        return lambda names: names[name]

    def _group(self, depth: int) -> _Writer:
        self._expect("(")
        if self._text.startswith(("=", "?"), self._position):
            raise self._error("look-ahead is not supported")
        self._skip(_SPACE_AND_LINES)
        inner = self._alternatives(depth + 1)
        self._skip(_SPACE_AND_LINES)
        self._expect(")")
        return lambda names: f"({inner(names)})"

    def _repeated(self, item: _Writer) -> _Writer:
        """Return the item with the repetitions that follow it."""
        num_operators = 0
        while True:
            self._skip(_SPACE)
            operator = self._text[self._position : self._position + 1]
            if operator and operator in "*+?":
                self._position += 1
                item = _with_operator(item, operator)
            elif operator == "{":
                if (count := _COUNT.match(self._text, self._position)) is None:
                    raise self._error("a repetition must be {3}, {3,} or {3,5}")
                self._position = count.end()
                most = count[1] if count[2] is None else count[3]
                item = _with_operator(item, f"{{{count[1]},{most}}}")
            else:
                return item
            num_operators += 1
            if num_operators > MAX_NESTING:
                raise self._error(f"more than {MAX_NESTING} repetitions of each other")

    def _literal(self) -> str:
        self._expect('"')
        characters = []
        while not self._take('"'):
            characters.append(self._character())
        return "".join(characters)

    def _character_class(self) -> str:
        """Return a class such as `[^a-z]` as a regular expression."""
        self._expect("[")
        inverted = "^" if self._take("^") else ""
        parts = []
        while not self._take("]"):
            first = last = self._character()
            if self._text.startswith("-", self._position) and not self._text.startswith("-]", self._position):
                self._position += 1
                last = self._character()
            if first > last:
                raise self._error(f"the range {first!r} to {last!r} is empty")
            parts.append(_code(first) if first == last else f"{_code(first)}-{_code(last)}")
        if not parts:
            raise self._error("a class without characters")
        return f"/[{inverted}{''.join(parts)}]/"

    def _character(self) -> str:
        character = self._text[self._position : self._position + 1]
        if not character or character in "\r\n":
            raise self._error("a literal or a class that does not end")
        self._position += 1
        return self._escape() if character == "\\" else character

    def _escape(self) -> str:
        kind = self._text[self._position : self._position + 1]
        self._position += 1
        if kind in _HEXADECIMAL:
            digits = self._text[self._position : self._position + _HEXADECIMAL[kind]]
            self._position += len(digits)
            if re.fullmatch(f"[0-9A-Fa-f]{{{_HEXADECIMAL[kind]}}}", digits) and int(digits, 16) <= 0x10FFFF:
                return chr(int(digits, 16))
            raise self._error(f"\\{kind} needs {_HEXADECIMAL[kind]} hexadecimal digits of a character")
        if kind not in _ESCAPES or not kind:
            raise self._error(f"\\{kind} is no escape")
        return _ESCAPES[kind]

    def _name(self) -> str:
        if (found := _NAME.match(self._text, self._position)) is None:
            raise self._error("expected the name of a rule")
        self._position = found.end()
        return found[0]

    def _skip(self, space: re.Pattern[str]) -> None:
        if (found := space.match(self._text, self._position)) is not None:
            self._position = found.end()

    def _take(self, text: str) -> bool:
        """Return True and go behind the text if it is next."""
        if not self._text.startswith(text, self._position):
            return False
        self._position += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._error(f"expected `{text}`")

    def _error(self, reason: str) -> GBNFError:
        line = self._text.count("\n", 0, self._position) + 1
        return GBNFError(f"line {line}: {reason}")


def _with_operator(item: _Writer, operator: str) -> _Writer:
    return lambda names: f"({item(names)}){operator}"


def _code(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"
