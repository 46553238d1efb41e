"""vLLM's `structured_outputs`: its fields, and the rule for the text of an answer that they set."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from gateway.constraints.choice_rule import MAX_CHOICES, choice_rule
from gateway.constraints.grammar_rule import grammar_rule
from gateway.constraints.json_rule import STYLE, JSONStyle, json_object_rule, json_schema_rule
from gateway.constraints.regex_rule import regex_rule
from gateway.constraints.structural_tag import structural_tag_rule
from gateway.constraints.text_rule import TextRule
from gateway.http.fields import described
from gateway.http.schema import FieldError, Schema

SchemaOrText = Annotated[dict[str, Any] | bool | str, described("a JSON Schema, as an object or as text")]
KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
"""The kinds of StructuredOutputs."""
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


class StructuredOutputs(Schema):
    """vLLM's rule for the text of an answer: exactly one kind, and how JSON is written."""

    hints = frozenset({"_backend", "_backend_was_auto", "backend", "disable_fallback"})

    json_: SchemaOrText | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Annotated[dict[str, Any] | str, described("an object, or JSON as text")] | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None
    """Regular expression of the whitespace between two parts of JSON."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        values = (self.json_, self.regex, self.choice, self.grammar, self.json_object or None, self.structural_tag)
        sent = [name for name, value in zip(KINDS, values, strict=True) if value is not None]
        if len(sent) != 1:
            found = " and ".join(sent) or "none"
            raise FieldError(sent[1] if sent else "json", f"exactly one of {', '.join(KINDS)} is needed (got {found})")
        for name in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
            if getattr(self, name) and sent[0] in ("regex", "choice", "grammar"):
                raise FieldError(name, f"not possible together with {sent[0]}")
        return self


def structured_rule(asked: StructuredOutputs, field: str) -> TextRule:
    """Return the rule. Raises InvalidRequestError if it is not valid."""
    before = f"{field}."
    pattern = STYLE.whitespace if asked.whitespace_pattern is None else asked.whitespace_pattern
    style = JSONStyle(
        whitespace=None if asked.disable_any_whitespace else pattern or None,
        closes_objects=asked.disable_additional_properties is not False,
    )
    if (schema := asked.json_) is not None:
        return json_schema_rule(schema, f"{before}json", style)
    if (regex := asked.regex) is not None:
        return regex_rule(regex, f"{before}regex")
    if (choices := asked.choice) is not None:
        return choice_rule(choices, f"{before}choice")
    if (grammar := asked.grammar) is not None:
        return grammar_rule(grammar, f"{before}grammar")
    if asked.json_object:
        return json_object_rule(f"{before}json_object", style)
    if (tag := asked.structural_tag) is not None:
        return structural_tag_rule(tag, f"{before}structural_tag", style)
    raise AssertionError("the schema demands one kind")
