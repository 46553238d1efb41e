"""The items of a response's input: messages, calls of tools and their results, reasoning, and references to stored items."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gateway.http.fields import MAX_MESSAGES, TextOrList
from gateway.http.schema import FieldError, Schema, shown

ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning", "item_reference")

# An item's fields that other kinds of tools need, with the values that change nothing.
_CALL_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"async": (False,), "caller": ({"type": "direct"},), "namespace": ()}
)
ItemId = Annotated[str, Field(min_length=1, max_length=256)]


class InputPart(Schema):
    """A text of a message or of a tool's result. Images, audio and files are not supported."""

    hints = frozenset({"annotations", "logprobs", "parsed", "prompt_cache_breakpoint"})

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str | None = None
    """The text; a part of the type `refusal` has it in `refusal`."""
    refusal: str | None = None
    """The text of a part of the type `refusal`."""

    @model_validator(mode="after")
    def _has_its_text(self) -> Self:
        name = "refusal" if self.type == "refusal" else "text"
        if getattr(self, name) is None:
            raise FieldError(name, "required")
        return self

    @property
    def content(self) -> str:
        return (self.refusal if self.type == "refusal" else self.text) or ""


InputContent = TextOrList[Annotated[list[InputPart], Field(fail_fast=True)]]
"""A text, or a list of texts."""


class InputMessage(Schema):
    """A message of a conversation."""

    hints = frozenset({"phase", "status"})

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent
    id: ItemId | None = None


class InputCall(Schema):
    """A call of a function that the model has made."""

    hints = frozenset({"parsed_arguments", "status"})
    neutral = _CALL_NEUTRAL

    type: Literal["function_call"]
    call_id: ItemId
    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: str
    """The arguments as JSON text."""
    id: ItemId | None = None


class InputCallOutput(Schema):
    """The result of a call."""

    hints = frozenset({"name", "status"})
    neutral = _CALL_NEUTRAL

    type: Literal["function_call_output"]
    call_id: ItemId
    """The `call_id` of an earlier call of this conversation."""
    output: InputContent
    id: ItemId | None = None


class ReasoningText(Schema):
    """A text of the model's reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class InputReasoning(Schema):
    """The reasoning of an earlier answer. Templates usually show the model only the reasoning since the last user message."""

    hints = frozenset({"encrypted_content", "status"})

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None
    summary: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None
    """Used if there is no `content`."""
    id: ItemId | None = None


class ItemReference(Schema):
    """An item of a stored response."""

    type: Literal["item_reference"] | None = None
    id: ItemId


def _tag(value: Any) -> str:
    kind = _type_of(value)
    return f"{kind} item" if kind else "message item"


def _type_of(value: Any) -> Any:
    """Return the type of an item, which messages and references may omit."""
    if not isinstance(value, dict):
        return getattr(value, "type", None)
    kind = value.get("type")
    if kind is None and "role" not in value and "id" in value:
        return "item_reference"
    return kind or "message"


def _check_type(value: Any) -> Any:
    if not isinstance(value, dict | Schema):
        raise ValueError("must be an object")
    if isinstance(value, dict) and (kind := _type_of(value)) not in ITEM_TYPES:
        allowed = ", ".join(f"`{each}`" for each in ITEM_TYPES)
        raise FieldError("type", f"items of this type are not supported; supported are {allowed} (got {shown(kind)})")
    return value


InputItem = Annotated[
    Annotated[InputMessage, Tag("message item")]
    | Annotated[InputCall, Tag("function_call item")]
    | Annotated[InputCallOutput, Tag("function_call_output item")]
    | Annotated[InputReasoning, Tag("reasoning item")]
    | Annotated[ItemReference, Tag("item_reference item")],
    Discriminator(_tag),
    BeforeValidator(_check_type),
]
ResponseInput = TextOrList[Annotated[list[InputItem], Field(max_length=MAX_MESSAGES, fail_fast=True)]]
"""A text, which is a message of the user, or a list of items."""
