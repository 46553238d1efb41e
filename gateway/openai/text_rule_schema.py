"""The fields that set a rule for the text of an answer: OpenAI's, vLLM's and llama.cpp's."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from gateway.chat.structured_outputs import Choices, SchemaOrText, StructuredOutputs
from gateway.http.schema import FieldError, Schema


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
