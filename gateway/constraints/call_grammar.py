"""The grammar of tool calls, from the description of a model's format and the schemas of the tools."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from gateway.constraints.json_rule import json_expression
from gateway.constraints.lark import ANY_TEXT, Rules, literal, literals, one_of, sequence
from gateway.constraints.literal_value import BracedStyle, LiteralWriter, PythonStyle
from gateway.constraints.parameter_grammar import ParameterWriter
from gateway.constraints.schema_walk import with_closed_objects
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import CallSyntax, Piece, Slot
from pagoda.text.tokenizer import Tokenizer

_SPACE_AFTER_TRIGGER = r"/[ \t\r\n]{0,4}/"
"""Whitespace after a trigger. Its token may hold some, and models differ in it."""

_OF_NO_ARGUMENTS = frozenset({"type", "properties", "required", "title", "description", "$schema"})
"""Keywords of the schema of a tool without arguments, if no properties are named."""


class Exactness(Enum):
    """The degree to which the arguments of a tool obey its schema."""

    EXACT = "as the schema says"
    LENIENT = "keywords that cannot be enforced are dropped"
    ANY = "any object"


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A tool that may be called, and how closely its arguments obey its schema."""

    tool: Tool
    exactness: Exactness = Exactness.EXACT


def whole_calls(syntax: CallSyntax, tokenizer: Tokenizer, tools: Sequence[ToolRule], *, parallel: bool) -> str:
    """Return the grammar of one call or, if `parallel`, of at least one. Raises UnsupportedSchemaError."""
    writer = _CallWriter(syntax, tokenizer, tools)
    more = f"({writer.between} {writer.call})*" if parallel else ""
    return writer.rules.text(sequence(writer.texts(syntax.begin), writer.call, more, writer.end))


def triggered_calls(syntax: CallSyntax, tokenizer: Tokenizer, tools: Sequence[ToolRule], *, parallel: bool) -> str:
    """Return the grammar of what begins with the trigger, and any text before the trigger in its first token.

    Without `parallel`, the answer ends after the call.
    """
    writer = _CallWriter(syntax, tokenizer, tools)
    trigger, more = writer.trigger(), ""
    if syntax.begin:
        begin = sequence(trigger, writer.texts(syntax.begin[1:]), writer.call)
        more = f"({writer.between} {writer.call})*" if parallel else ""
    else:
        # The next call has a trigger of its own.
        begin = sequence(trigger, writer.call_without_opening)
    ending = "" if parallel else f"<[{','.join(map(str, sorted(tokenizer.eos_token_ids)))}]>"
    return writer.rules.text(sequence(begin, more, writer.end, ending))


def arguments_grammar(syntax: CallSyntax, tokenizer: Tokenizer, tool: ToolRule) -> str:
    """Return the grammar of one call of the tool, to find out whether its schema can be enforced."""
    writer = _CallWriter(syntax, tokenizer, [tool])
    return writer.rules.text(writer.call)


class _CallWriter:
    """The expressions of the calls of a model."""

    def __init__(self, syntax: CallSyntax, tokenizer: Tokenizer, tools: Sequence[ToolRule]) -> None:
        self.rules = Rules()
        self._syntax = syntax
        self._control_tokens = _control_tokens(syntax, tokenizer)
        self._tools = tools
        self.between = self._text(syntax.separator)
        self.end = self.texts(_without_final_space(syntax.end))

    @cached_property
    def call(self) -> str:
        return self.rules.rule(one_of([self._call(self._syntax.call, tool) for tool in self._tools]))

    @property
    def call_without_opening(self) -> str:
        return self.rules.rule(one_of([self._call(self._syntax.call[1:], tool) for tool in self._tools]))

    def texts(self, texts: Sequence[str]) -> str:
        return sequence(*map(self._text, texts))

    def trigger(self) -> str:
        """Return any text up to the trigger, with it, and the whitespace after it."""
        trigger = self._syntax.trigger
        begins_with_control = any(trigger.startswith(name) for name in self._control_tokens if name)
        written = literals(trigger, self._control_tokens)
        if not begins_with_control:
            first, _, rest = written.partition(" <[")
            written = sequence(self.rules.rule(f"{ANY_TEXT} {first}", is_lazy=True), f"<[{rest}" if rest else "")
        return sequence(written, _SPACE_AFTER_TRIGGER)

    def _text(self, text: str) -> str:
        return literals(text, self._control_tokens)

    def _call(self, pieces: Sequence[Piece], rule: ToolRule) -> str:
        if not self._syntax.end and isinstance(pieces[-1], str):
            pieces = (*pieces[:-1], pieces[-1].rstrip())
        return sequence(*(self._piece(pieces, index, rule) for index in range(len(pieces))))

    def _piece(self, pieces: Sequence[Piece], index: int, rule: ToolRule) -> str:
        tool, schema, is_lenient = rule.tool, _schema(rule), rule.exactness is not Exactness.EXACT
        match pieces[index]:
            case Slot.NAME:
                return literal(tool.name)
            case Slot.INDEX:
                return self.rules.lexeme("/0|[1-9][0-9]{0,2}/")
            case Slot.ARGUMENTS:
                return self.rules.rule(json_expression(schema, "", is_lenient=is_lenient))
            case Slot.OBJECT:
                name, key = json.dumps(tool.name, ensure_ascii=False), self._syntax.arguments_key
                begin = literal(f'{{"{self._syntax.name_key}": {name}, "{key}": ')
                return sequence(begin, self.rules.rule(json_expression(schema, "", is_lenient=is_lenient)), '"}"')
            case Slot.PARAMETERS:
                writer = ParameterWriter(
                    self._syntax.parameter, self._control_tokens, self.rules, is_lenient=is_lenient
                )
                return writer.parameters(schema)
            case Slot.PYTHON_ARGUMENTS:
                return LiteralWriter(PythonStyle(), self.rules, schema, is_lenient=is_lenient).keyword_arguments(schema)
            case Slot.BRACED:
                style = BracedStyle(self._syntax.quote, self._control_tokens)
                writer_of_values = LiteralWriter(style, self.rules, schema, is_lenient=is_lenient)
                return sequence('"{"', writer_of_values.members(schema), '"}"')
            case text:
                return self._text(text)


def _control_tokens(syntax: CallSyntax, tokenizer: Tokenizer) -> Mapping[str, int]:
    """Return the control tokens in the texts of the format. A vocabulary may have thousands of others."""
    pieces = (*syntax.begin, *syntax.call, syntax.separator, *syntax.end, *syntax.parameter, syntax.quote)
    texts = "\0".join(piece for piece in pieces if not isinstance(piece, Slot))
    return {name: token_id for name, token_id in tokenizer.special_tokens.items() if name and name in texts}


def _schema(rule: ToolRule) -> Mapping[str, Any]:
    """Return the schema of the arguments, an object. A tool without a schema has no arguments."""
    if rule.exactness is Exactness.ANY:
        return {"type": "object"}
    described = {**(rule.tool.parameters or {"properties": {}}), "type": "object"}
    if described.get("properties") == {} and described.keys() <= _OF_NO_ARGUMENTS:
        return {"type": "object", "additionalProperties": False}
    closed: Mapping[str, Any] = with_closed_objects(described)
    return closed


def _without_final_space(texts: Sequence[str]) -> Sequence[str]:
    # After the end of the calls the answer is free, or ends. Whitespace there would be neither.
    return (*texts[:-1], texts[-1].rstrip()) if texts else ()
