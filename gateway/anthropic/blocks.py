"""The content blocks of messages, and the lists of them that may also be written as one text."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.http.schema import FieldError, Schema

_REQUIRED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("text",),
        "thinking": ("thinking",),
        "redacted_thinking": (),
        "tool_use": ("id", "name", "input"),
        "tool_result": ("tool_use_id",),
    }
)
"""The fields that a block of each type must have."""


def _as_blocks(content: Any) -> Any:
    """Return a text as the one block that it stands for."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class TextBlock(Schema):
    """A text of a system prompt or of a tool's result."""

    hints = frozenset({"cache_control", "citations"})

    type: Literal["text"]
    text: str


TextBlocks = Annotated[
    list[TextBlock], Field(fail_fast=True), BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])
]
"""A text, or a list of text blocks."""


class ContentBlock(Schema):
    """A block of a message: a text, the model's reasoning, a call of a tool, or the tool's result."""

    hints = frozenset({"cache_control", "caller", "citations", "data", "signature", "toolset_name"})

    type: Literal["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]
    """A redacted_thinking block is left out of the prompt."""
    text: str | None = None
    """The text of a text block."""
    thinking: str | None = None
    """The text of a thinking block."""
    id: str | None = None
    """The id of a call."""
    name: str | None = None
    """The name of the called tool."""
    input: dict[str, Any] | None = None
    """The arguments of a call."""
    tool_use_id: str | None = None
    """The id of the call that a result belongs to."""
    content: TextBlocks | None = None
    """The result of a tool, as a text or as text blocks."""
    is_error: bool | None = None
    """True if the tool failed. The model reads `Error: ` before the result."""

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> Self:
        for name in _REQUIRED[self.type]:
            if getattr(self, name) is None:
                raise FieldError(name, "required")
        return self


ContentBlocks = Annotated[
    list[ContentBlock],
    Field(fail_fast=True),
    BeforeValidator(_as_blocks, json_schema_input_type=str | list[ContentBlock]),
]
"""A text, or a list of blocks."""
