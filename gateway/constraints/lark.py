"""Parts of grammars in llguidance's Lark syntax."""

import json
import re
from collections.abc import Mapping, Sequence

ANY_TEXT = "/(?s:.*)/"


class Rules:
    """The rules of one grammar, with names that are made up. The same expression has only one rule."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._lines: list[str] = []
        self._num_names = 0

    def rule(self, expression: str, *, is_lazy: bool = False) -> str:
        """Return the name of a rule with this expression."""
        return self._add("rule", "[lazy]" if is_lazy else "", expression)

    def lexeme(self, expression: str) -> str:
        """Return the name of a lexeme with this expression, which has only texts, regular expressions and lexemes."""
        return self._add("LEXEME", "", expression)

    def new_name(self) -> str:
        """Return the name of a rule that `define` will define. So rules may refer to each other."""
        self._num_names += 1
        return f"rule_{self._num_names}"

    def define(self, name: str, expression: str) -> None:
        self._lines.append(f"{name}: {expression}")

    def text(self, start: str) -> str:
        """Return the grammar, with the expression of its first rule."""
        return "\n".join([f"start: {start}", *self._lines])

    def _add(self, kind: str, options: str, expression: str) -> str:
        key = f"{kind}{options}: {expression}"
        if key not in self._names:
            self._num_names += 1
            self._names[key] = f"{kind}_{self._num_names}"
            self._lines.append(f"{self._names[key]}{options}: {expression}")
        return self._names[key]


def literal(text: str) -> str:
    """Return the text as a literal of a Lark rule; an empty expression if it is empty."""
    return json.dumps(text) if text else ""


def one_of(expressions: Sequence[str]) -> str:
    """Return an expression for one of the expressions."""
    if len(expressions) == 1:
        return expressions[0]
    empty = '""'
    return f"({' | '.join(each or empty for each in expressions)})"


def sequence(*expressions: str) -> str:
    """Return the expressions one after another."""
    return " ".join(each for each in expressions if each)


def literals(text: str, control_tokens: Mapping[str, int]) -> str:
    """Return the text as a sequence of literals. Names of control tokens in it are those tokens, which have no text."""
    names = [name for name in sorted(control_tokens, key=len, reverse=True) if name and name in text]
    if not names:
        return literal(text)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return sequence(*(f"<[{control_tokens[part]}]>" if part in control_tokens else literal(part) for part in parts))


def joined(items: Sequence[tuple[str, bool]], separator: str, rules: Rules) -> str:
    """Return the items in their order, with separators. Each is an expression, and whether it must be there."""
    alone, after = "", ""  # the items from here on: without one before them, and with one
    for expression, is_required in reversed(items):
        first, next_one = sequence(expression, after), sequence(separator, expression, after)
        alone = rules.rule(first if is_required else one_of([first, alone]))
        after = rules.rule(next_one if is_required else one_of([next_one, after]))
    return alone
