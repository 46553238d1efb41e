"""The grammar of parameters that are written one by one, each between texts of its own, with values as bare text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.constraints.json_rule import json_expression
from gateway.constraints.lark import ANY_TEXT, Rules, joined, literal, literals, one_of, sequence
from gateway.constraints.schema_walk import resolved_reference, subschemas
from gateway.constraints.text_value import UnsupportedSchemaError, enumerated, text_expression, without
from gateway.prompts.parameter_types import parameter_types
from pagoda.models.output_formats.description import Piece, Slot

_ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_ANY_KEY = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"
_NUMBER = "/-?[0-9.]+([eE][+-]?[0-9]+)?/"
_MAX_DEPTH = 16


class ParameterWriter:
    """The writer of the parameters of one tool."""

    def __init__(
        self, pieces: Sequence[Piece], control_tokens: Mapping[str, int], rules: Rules, *, is_lenient: bool
    ) -> None:
        self._pieces = pieces
        self._control_tokens = control_tokens
        self._rules = rules
        self._is_lenient = is_lenient
        index = pieces.index(Slot.VALUE) + 1
        self._ending = str(pieces[index])
        self._after_value = pieces[index + 1 :]

    def parameters(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for the parameters, in the order of the schema. Raises UnsupportedSchemaError."""
        properties, required = schema.get("properties"), schema.get("required")
        named = properties if isinstance(properties, Mapping) else {}
        if not named and schema.get("additionalProperties", True):
            return f"({self._parameter(self._rules.lexeme(_ANY_KEY), True, schema, frozenset())})*"
        needed = set(required) if isinstance(required, list) else set()
        items = [
            (self._parameter(literal(name), each, schema, parameter_types(schema, name)), name in needed)
            for name, each in named.items()
        ]
        return joined(items, "", self._rules) if items else ""

    def _parameter(self, key: str, schema: Any, root: Mapping[str, Any], types: frozenset[str]) -> str:
        before = self._pieces[: self._pieces.index(Slot.VALUE)]
        after = sequence(*(self._text(piece) for piece in self._after_value if isinstance(piece, str)))
        is_text = not types or "string" in types
        forms = []
        if is_text:
            forms.append(("true", self._text_value(schema, root, types)))
        if types != {"string"} and (types or Slot.IS_STRING in before):
            forms.append(("false", self._json_value(schema, root, types)))
        return one_of([sequence(self._before(before, key, flag), value, after) for flag, value in forms])

    def _before(self, pieces: Sequence[Piece], key: str, flag: str) -> str:
        written = {Slot.KEY: key, Slot.IS_STRING: literal(flag)}
        return sequence(*(written[piece] if isinstance(piece, Slot) else self._text(piece) for piece in pieces))

    def _text(self, text: str) -> str:
        return literals(text, self._control_tokens)

    def _json_value(self, schema: Any, root: Mapping[str, Any], types: frozenset[str]) -> str:
        """Return a value that is no string, as JSON, with the text after it."""
        if "string" in types or not types:
            schema = {"allOf": [schema, {"type": sorted((types or _ALL_TYPES) - {"string"})}]}
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        for _, inner in subschemas(schema):
            if not str(inner.get("$ref", "#/$defs/")).startswith(("#/$defs/", "#/definitions/")):
                raise UnsupportedSchemaError("'$ref' is supported only to '#/$defs/…' for this model's format of calls")
        whole = {**definitions, **schema} if isinstance(schema, Mapping) else schema
        value = self._rules.rule(json_expression(whole, "", is_lenient=self._is_lenient))
        return sequence(value, self._text(self._ending))

    def _text_value(self, schema: Any, root: Mapping[str, Any], types: frozenset[str]) -> str:
        """Return a string as it is, with the text after it."""
        texts = [] if not types else [self._constrained(each) for each in _string_branches(schema, root, _MAX_DEPTH)]
        core, after = self._ending.strip(), literal(self._ending[len(self._ending.rstrip()) :])
        is_control = core in self._control_tokens
        if not texts or None in texts:
            if types - {"string", "null", "boolean"} and not self._is_lenient:
                inner = self._distinct(None, types)
            elif is_control:
                return sequence(self._rules.lexeme(ANY_TEXT), self._text(core), after)
            else:
                return sequence(self._rules.rule(f"{ANY_TEXT} {literal(core)}", is_lazy=True), after)
        else:
            inner = self._distinct(one_of([text for text in texts if text is not None]), types)
        if is_control:
            return sequence(self._rules.lexeme(inner), self._text(self._ending))
        return sequence(self._rules.lexeme(f"({without(inner, core)}) {literal(self._ending.rstrip())}"), after)

    def _constrained(self, schema: Mapping[str, Any]) -> str | None:
        return text_expression(schema, is_lenient=self._is_lenient)

    def _distinct(self, expression: str | None, types: frozenset[str]) -> str:
        """Return the lexeme without texts that are read as values of the other types."""
        others = []
        if types & {"integer", "number"}:
            others.append(f"~{_NUMBER}")
        if types & {"array", "object"}:
            others.append(r"~/\s*[\[{](?s:.*)/")
        return " & ".join([f"({expression or ANY_TEXT})", *others])


def _string_branches(schema: Any, root: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of the strings that a schema allows."""
    if not isinstance(schema, Mapping) or not depth:
        return
    if isinstance(reference := schema.get("$ref"), str):
        yield from _string_branches(resolved_reference(root, reference), root, depth - 1)
        return
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(branches := schema.get(key), list):
            if key == "allOf" and len(branches) > 1:
                raise UnsupportedSchemaError("'allOf' of strings is not supported for this model's format of calls")
            for branch in branches:
                yield from _string_branches(branch, root, depth - 1)
            return
    declared, values = schema.get("type"), enumerated(schema)
    kinds = [declared] if isinstance(declared, str) else declared or []
    if "string" in kinds or (not kinds and any(isinstance(value, str) for value in values or ())):
        yield {key: value for key, value in schema.items() if key in _TEXT_KEYS or kinds == ["string"]}


_TEXT_KEYS = frozenset({"enum", "const", "minLength", "maxLength", "pattern", "format"})
