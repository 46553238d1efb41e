"""The fields that set a rule for the text of an answer: OpenAI's, vLLM's and llama.cpp's."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gateway.constraints.choice_rule import MAX_CHOICES
from gateway.http.fields import described
from gateway.http.schema import FieldError, Schema

SchemaOrText = Annotated[dict[str, Any] | bool | str, described("a JSON Schema, as an object or as text")]
KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
"""The kinds of StructuredOutputs."""
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


class JSONSchemaFormat(Schema):
    """A JSON Schema for the text."""

    hints = frozenset({"name", "description"})

    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    """Changes nothing: the answer always obeys the schema, and a schema that cannot be enforced is refused."""


class ResponseFormat(Schema):
    """The form of the text of an answer."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JSONSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """llama.cpp's field: a JSON Schema for the type `json_object`."""
    format: dict[str, Any] | None = None
    """xgrammar's field: the form of a structural tag."""
    structures: list[dict[str, Any]] | None = None
    """vLLM's older field: the tags of a structural tag."""
    triggers: list[str] | None = None

    @model_validator(mode="after")
    def _fields_belong_to_the_type(self) -> Self:
        types = {
            "json_schema": (self.json_schema, "json_schema"),
            "schema": (self.schema_, "json_object"),
            "format": (self.format, "structural_tag"),
            "structures": (self.structures, "structural_tag"),
            "triggers": (self.triggers, "structural_tag"),
        }
        for name, (value, type_) in types.items():
            if value is not None and self.type != type_:
                raise FieldError(name, f'only allowed when type is "{type_}"')
        return self


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


class TextRuleFields(Schema):
    """The fields of a request that set a rule for the text. At most one of them may be sent."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText | None = None
    """vLLM's older field: the same as `structured_outputs.json`."""
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    json_schema: dict[str, Any] | None = None
    """llama.cpp's field: a JSON Schema for the text."""
    grammar: str | None = None
    """llama.cpp's field: a grammar in GBNF or Lark. Empty is none."""

    @model_validator(mode="after")
    def _whitespace_is_of_json(self) -> Self:
        if self.guided_whitespace_pattern is not None and self.guided_json is None:
            raise FieldError("guided_whitespace_pattern", "only allowed together with guided_json")
        return self
