"""Values written as literals of a language other than JSON, under a JSON Schema: Python's, and Gemma's with its braces."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from gateway.constraints.json_rule import json_expression
from gateway.constraints.lark import Rules, joined, literal, literals, one_of, sequence
from gateway.constraints.schema_walk import resolved_reference
from gateway.constraints.text_value import UnsupportedSchemaError, enumerated, refuse_unknown, text_expression, without

MAX_DEPTH = 32
_CONTAINER_KEYWORDS = {
    "object": frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"}),
    "array": frozenset({"type", "items", "minItems", "maxItems"}),
}
_UNION_KEYWORDS = frozenset({"anyOf", "oneOf", "type", "discriminator", "$defs", "definitions"})
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")


class LiteralStyle(Protocol):
    """The way in which a language writes values."""

    words: Mapping[Any, str]
    """Words for true, false and null."""
    separator: str
    """Expression between two members of a list or an object."""
    colon: str
    """Expression between a key and its value."""

    def text(self, schema: Mapping[str, Any], rules: Rules, *, is_lenient: bool) -> str:
        """Return an expression for a string."""

    def fixed_text(self, text: str) -> str:
        """Return an expression for this string."""

    def key(self, name: str) -> str:
        """Return an expression for the key of an object."""

    def any_key(self, rules: Rules) -> str:
        """Return an expression for any key."""


class PythonStyle:
    """Python's literals."""

    words: Mapping[Any, str] = MappingProxyType({True: '"True"', False: '"False"', None: '"None"'})
    separator = "/, ?/"
    colon = "/: ?/"

    def text(self, schema: Mapping[str, Any], rules: Rules, *, is_lenient: bool) -> str:
        # A string of JSON without \u is one of Python's.
        plain = {"type": "string", **schema}
        quoted = rules.rule(json_expression(plain, "", escapes='nrbtf\\"', is_lenient=is_lenient))
        constrained = schema.keys() & {"minLength", "maxLength", "pattern", "format"}
        single = rules.lexeme(r"""/'([^'\\\n\r]|\\['"\\nrtbf])*'/""")
        return quoted if constrained else one_of([quoted, single])

    def fixed_text(self, text: str) -> str:
        quoted = json.dumps(text, ensure_ascii=False)
        single = f"'{quoted[1:-1]}'"
        return one_of([literal(quoted), literal(single)]) if "'" not in text and '"' not in text else literal(quoted)

    def key(self, name: str) -> str:
        return self.fixed_text(name)

    def any_key(self, rules: Rules) -> str:
        return self.text({}, rules, is_lenient=False)


class BracedStyle:
    """Values whose strings stand between two markers, in objects with keys without quotes."""

    words: Mapping[Any, str] = MappingProxyType({True: '"true"', False: '"false"', None: '"null"'})
    separator = "/, ?/"
    colon = "/: ?/"

    def __init__(self, quote: str, control_tokens: Mapping[str, int]) -> None:
        self.quote = quote
        self.control_tokens = control_tokens

    def text(self, schema: Mapping[str, Any], rules: Rules, *, is_lenient: bool) -> str:
        inner = text_expression(schema, is_lenient=is_lenient)
        mark = literals(self.quote, self.control_tokens)
        if self.quote in self.control_tokens:
            return sequence(mark, rules.lexeme(inner or "/(?s:.*)/"), mark)
        return sequence(mark, rules.lexeme(f"({without(inner, self.quote)}) {mark}"))

    def fixed_text(self, text: str) -> str:
        mark = literals(self.quote, self.control_tokens)
        return sequence(mark, literal(text), mark)

    def key(self, name: str) -> str:
        return literal(name)

    def any_key(self, rules: Rules) -> str:
        return rules.lexeme("/[A-Za-z_][A-Za-z0-9_.-]{0,63}/")


class LiteralWriter:
    """The writer of the expressions of values, for one schema."""

    def __init__(self, style: LiteralStyle, rules: Rules, root: Mapping[str, Any], *, is_lenient: bool) -> None:
        self._style = style
        self._rules = rules
        self._root = root
        self._is_lenient = is_lenient
        self._references: dict[str, str] = {}
        self._any = ""

    def value(self, schema: Any, depth: int = MAX_DEPTH) -> str:
        """Return an expression for a value. Raises UnsupportedSchemaError if the schema cannot be enforced."""
        if not depth:
            raise UnsupportedSchemaError("nested too deeply")
        if schema is False:
            raise UnsupportedSchemaError("no value can satisfy it")
        if not isinstance(schema, Mapping):
            return self._any_value()
        if isinstance(reference := schema.get("$ref"), str):
            return self._reference(reference, depth)
        if (values := enumerated(schema)) is not None:
            return one_of([self.fixed(each) for each in values])
        for key in ("anyOf", "oneOf"):
            if isinstance(branches := schema.get(key), list) and branches:
                refuse_unknown(schema, _UNION_KEYWORDS, is_lenient=self._is_lenient)
                return one_of([self.value(branch, depth - 1) for branch in branches])
        kinds = _kinds(schema)
        if not kinds:
            refuse_unknown(schema, frozenset(), is_lenient=self._is_lenient)
            return self._any_value()
        return one_of([self._of_type(kind, schema, depth, len(kinds) > 1) for kind in kinds])

    def keyword_arguments(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for the properties of an object as the arguments of a function of Python."""
        any_name = self._rules.lexeme("/[A-Za-z_][A-Za-z0-9_]{0,63}/")
        return self._members(schema, literal, any_name, literal("="), MAX_DEPTH)

    def members(self, schema: Mapping[str, Any], depth: int = MAX_DEPTH) -> str:
        """Return an expression for the properties of an object, with separators between them."""
        return self._members(schema, self._style.key, self._style.any_key(self._rules), self._style.colon, depth)

    def _members(
        self, schema: Mapping[str, Any], key: Callable[[str], str], any_key: str, colon: str, depth: int
    ) -> str:
        properties, required = schema.get("properties"), schema.get("required")
        named = properties if isinstance(properties, Mapping) else {}
        needed = set(required) if isinstance(required, list) else set()
        if not named and schema.get("additionalProperties", "properties" not in schema):
            more = schema.get("additionalProperties")
            value = self.value(more if isinstance(more, Mapping) else True, depth - 1)
            member = sequence(any_key, colon, value)
            return f"({member} ({self._style.separator} {member})*)?"
        items = [
            (sequence(key(name), colon, self.value(each, depth - 1)), name in needed) for name, each in named.items()
        ]
        return joined(items, self._style.separator, self._rules)

    def fixed(self, value: Any) -> str:
        """Return an expression for this value."""
        match value:
            case True | False | None:
                return self._style.words[value]
            case str():
                return self._style.fixed_text(value)
            case list():
                return sequence('"["', self._between([self.fixed(each) for each in value]), '"]"')
            case Mapping():
                members = [
                    sequence(self._style.key(key), self._style.colon, self.fixed(each)) for key, each in value.items()
                ]
                return sequence('"{"', self._between(members), '"}"')
        return literal(json.dumps(value))

    def _between(self, expressions: Sequence[str]) -> str:
        return f" {self._style.separator} ".join(expressions)

    def _of_type(self, kind: str, schema: Mapping[str, Any], depth: int, is_one_of_several: bool) -> str:
        match kind:
            case "string":
                texts = {
                    key: value
                    for key, value in schema.items()
                    if key in ("minLength", "maxLength", "pattern", "format")
                }
                return self._style.text(texts, self._rules, is_lenient=self._is_lenient)
            case "integer" | "number":
                is_lenient = self._is_lenient or is_one_of_several
                return self._rules.rule(json_expression({**schema, "type": kind}, "", is_lenient=is_lenient))
            case "boolean":
                return one_of([self._style.words[True], self._style.words[False]])
            case "null":
                return self._style.words[None]
        if not is_one_of_several:
            refuse_unknown(schema, _CONTAINER_KEYWORDS[kind], is_lenient=self._is_lenient)
        if kind == "object":
            return sequence('"{"', self.members(schema, depth - 1), '"}"')
        return sequence('"["', self._items(schema, depth), '"]"')

    def _items(self, schema: Mapping[str, Any], depth: int) -> str:
        item = self._rules.rule(self.value(schema.get("items", True), depth - 1))
        least, most = int(schema.get("minItems") or 0), schema.get("maxItems")
        if most is not None and int(most) < max(least, 1):
            if least:
                raise UnsupportedSchemaError(
                    f"no value can satisfy it: minItems ({least}) is greater than maxItems ({most})"
                )
            return ""
        more = f"({self._style.separator} {item}){{{max(least - 1, 0)},{'' if most is None else int(most) - 1}}}"
        return f"{item} {more}" if least else f"({item} {more})?"

    def _reference(self, reference: str, depth: int) -> str:
        if reference not in self._references:
            target = resolved_reference(self._root, reference)
            if target is None:
                raise UnsupportedSchemaError(f"'$ref' to {reference!r} leads nowhere")
            self._references[reference] = name = self._rules.new_name()
            self._rules.define(name, self.value(target, depth - 1))
        return self._references[reference]

    def _any_value(self) -> str:
        if not self._any:
            self._any = name = self._rules.new_name()
            kinds = ("string", "number", "boolean", "null")
            scalars = [self._of_type(kind, {}, MAX_DEPTH, True) for kind in kinds]
            separator, colon = self._style.separator, self._style.colon
            member = sequence(self._style.any_key(self._rules), colon, name)
            listed = f'"[" ({name} ({separator} {name})*)? "]"'
            named = f'"{{" ({member} ({separator} {member})*)? "}}"'
            self._rules.define(name, one_of([*scalars, listed, named]))
        return self._any


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """Return the types of a schema's values; none if it allows any."""
    declared = schema.get("type")
    if declared is None:
        return ["object"] if "properties" in schema else ["array"] if "items" in schema else []
    kinds = [declared] if isinstance(declared, str) else list(declared)
    if unknown := [kind for kind in kinds if kind not in _TYPES]:
        raise UnsupportedSchemaError(f"Invalid type: {unknown[0]}")
    return ["null" if kind is None else kind for kind in kinds]
