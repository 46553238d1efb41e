"""The request bodies of Anthropic's endpoints. blocks.py has the contents of messages."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.anthropic.blocks import ContentBlocks, TextBlocks
from gateway.anthropic.known_fields import HINTS, INSTEAD, NEUTRAL
from gateway.chat.template_variables import check_template_variables
from gateway.http.fields import MAX_MESSAGES, Count, ModelName, PositiveCount, Stop, Temperature, TopP
from gateway.http.schema import FieldError, Schema, shown, with_example


class Message(Schema):
    """A message of a conversation."""

    hints = frozenset({"id"})

    role: Literal["user", "assistant", "system"]
    content: ContentBlocks
    """A text or a list of blocks. Calls and thinking are in an assistant's message, results of tools in a user's."""

    @model_validator(mode="after")
    def _blocks_fit_the_role(self) -> Self:
        for index, block in enumerate(self.content):
            role = {"thinking": "assistant", "redacted_thinking": "assistant", "tool_use": "assistant"}.get(block.type)
            role = "user" if block.type == "tool_result" else role
            if role not in (None, self.role):
                raise FieldError(
                    f"content.{index}.type",
                    f"a {block.type} block belongs into a message of the role '{role}' (got '{self.role}')",
                )
        return self


class Tool(Schema):
    """A tool that the model may call. The client runs it."""

    hints = frozenset({"allowed_callers", "cache_control", "defer_loading", "eager_input_streaming", "input_examples"})

    type: Literal["custom"] | None = None
    """Only tools that the client defines are supported, none that Anthropic's servers define or run."""
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    """The JSON Schema of the tool's arguments."""
    strict: bool | None = None
    """True if a call must obey the schema."""


class ToolChoice(Schema):
    """The choice of tools that the model has to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    """The tool that the model has to call, with the type `tool`."""
    disable_parallel_tool_use: bool | None = None
    """True if an answer may have one call at most."""

    @model_validator(mode="after")
    def _a_tool_has_a_name(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise FieldError("name", 'required with the type "tool"')
        return self


class Thinking(Schema):
    """The thinking of the model before its answer."""

    type: Literal["enabled", "disabled", "adaptive"]
    """The value `adaptive` leaves it to the model's chat template."""
    budget_tokens: PositiveCount | None = None
    """Maximum number of tokens of the thinking."""
    display: Literal["summarized", "omitted"] | None = None
    """`omitted` leaves the text out of the thinking block. Nothing is summarized."""


class OutputFormat(Schema):
    """A JSON Schema for the text of the answer."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    """The schema. Unless it says otherwise, objects have no properties besides those that it names."""


class OutputConfig(Schema):
    """The form of the answer."""

    hints = frozenset({"task_budget"})

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """The amount of thinking, for chat templates that read it."""
    format: OutputFormat | None = None


_QUESTION = {"role": "user", "content": [{"type": "text", "text": "What is the capital of Peru?"}]}
TemplateVariables = Annotated[dict[str, Any], AfterValidator(check_template_variables)]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class CountTokensRequest(Schema):
    """A conversation whose tokens are counted."""

    model_config = with_example({"messages": [_QUESTION]})

    neutral = NEUTRAL
    instead = INSTEAD
    hints = HINTS

    model: ModelName | None = None
    messages: Messages
    system: TextBlocks | None = None
    """The system prompt. Lines that begin with `x-anthropic-billing-header:` are left out."""
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older name of `output_config.format`."""
    chat_template_kwargs: TemplateVariables | None = None
    """vLLM's field: variables of the chat template. `enable_thinking` applies if `thinking` is absent or `adaptive`."""

    @model_validator(mode="after")
    def _one_output_format(self) -> Self:
        if self.output_format and self.output_config and self.output_config.format:
            raise FieldError("output_format", "not possible together with output_config.format; send only one of them")
        return self

    @model_validator(mode="after")
    def _a_chosen_tool_is_offered(self) -> Self:
        choice, names = self.tool_choice, [tool.name for tool in self.tools or ()]
        if choice is not None and choice.type in ("any", "tool") and not names:
            raise FieldError("tool_choice", f'type "{choice.type}" needs tools')
        if choice is not None and choice.type == "tool" and choice.name not in names:
            raise FieldError("tool_choice.name", f"must be the name of one of the tools (got {shown(choice.name)})")
        return self


class MessagesRequest(CountTokensRequest):
    """A conversation to answer."""

    model_config = with_example({"messages": [_QUESTION], "max_tokens": 50})

    max_tokens: PositiveCount
    stream: bool | None = None
    stop_sequences: Stop | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Count | None = None
    """Number of tokens to choose from; 0 for all."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """vLLM's field: only requests with the same salt share cached prefixes."""
