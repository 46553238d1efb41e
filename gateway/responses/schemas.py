"""The request body of OpenAI's POST /v1/responses, with vLLM's additions. item_schemas.py has the items of its input."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gateway.chat.sampling_fields import SamplingFields
from gateway.chat.structured_outputs import StructuredOutputs
from gateway.chat.template_variables import check_template_variables
from gateway.http.fields import Count, NumLogprobs, PositiveCount, described
from gateway.http.schema import FieldError, Schema, shown, with_example
from gateway.responses.item_schemas import ResponseInput

LOGPROBS = "message.output_text.logprobs"
MAX_METADATA = 16

# Fields of chat completions, with the field of this API.
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "messages": "input",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
    }
)
# Not supported: each is accepted only with a value that changes nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "access_programs": (),
        "context_management": ([],),
        "conversation": (),
        "image": (),
        "kv_transfer_params": (),
        "mm_processor_kwargs": ({},),
        "moderation": (),
        "prompt": (),
        "vllm_xargs": ({},),
        **dict.fromkeys(_INSTEAD, ()),
    }
)
# Accepted with any value. They are about the client's bookkeeping, about scheduling and caching.
_HINTS = frozenset(
    {
        "background_options",
        "prompt_cache_options",
        "prompt_cache_retention",
        "service_tier",
        "stream_options",
    }
)


class ResponseTextFormat(Schema):
    """The form of the answer's text."""

    hints = frozenset({"description"})

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """JSON Schema of the text. Required for `json_schema`."""
    strict: bool | None = None
    """The schema is always enforced."""

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.schema_ is None:
            raise FieldError("schema", "required")
        return self


class TextConfig(Schema):
    """The form of the answer's text."""

    format: ResponseTextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """Returned; changes no answer."""


class ReasoningConfig(Schema):
    """The reasoning of a model that can reason."""

    hints = frozenset({"context", "generate_summary", "mode"})

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """The same as `reasoning_effort` in chat completions."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    """There are no summaries: replies have the whole reasoning in the `content` of a reasoning item."""


def _check_tool_type(value: Any) -> Any:
    if isinstance(value, dict) and (kind := value.get("type", "function")) != "function":
        raise FieldError("type", f"tools of this type are not supported; only `function` is (got {shown(kind)})")
    return value


class FunctionTool(Schema):
    """A function that the model may call."""

    hints = frozenset({"defer_loading", "output_schema"})
    neutral = MappingProxyType({"allowed_callers": (["direct"],), "async": (False,)})

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments."""
    strict: bool | None = None
    """True if the arguments must obey the schema. Default: false."""


class AllowedTool(Schema):
    """The name of a tool."""

    type: Literal["function"]
    name: str


class ToolChoiceObject(Schema):
    """A choice of one tool, or of several."""

    type: Literal["function", "allowed_tools"]
    name: str | None = None
    """The function to call, for the type `function`."""
    mode: Literal["auto", "required"] | None = None
    """`required` if one of the tools must be called, for the type `allowed_tools`."""
    tools: list[AllowedTool] | None = None
    """The tools that may be called, for the type `allowed_tools`."""

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> Self:
        for name in ("name",) if self.type == "function" else ("mode", "tools"):
            if getattr(self, name) is None:
                raise FieldError(name, "required")
        return self


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > MAX_METADATA:
        raise ValueError(f"may have at most {MAX_METADATA} keys, not {len(metadata)}")
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            raise ValueError("keys may have at most 64 characters, and values 512")
    return metadata


ToolChoiceField = Annotated[
    Literal["none", "auto", "required"] | ToolChoiceObject,
    described(
        '"none", "auto", "required", {"type": "function", "name": ...} or '
        '{"type": "allowed_tools", "mode": ..., "tools": [...]} with the mode "auto" or "required"'
    ),
]
Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponseRequest(SamplingFields):
    """A conversation to answer."""

    model_config = with_example({"input": "What is the capital of Peru?", "max_output_tokens": 50})

    neutral = _NEUTRAL
    instead = _INSTEAD
    hints = _HINTS

    input: ResponseInput | None = None
    """The next messages of the conversation, calls of tools and their results."""
    instructions: str | None = None
    """The system message. It is not carried over by `previous_response_id`."""
    previous_response_id: Annotated[str, Field(max_length=256)] | None = None
    """A stored response, whose conversation continues."""
    store: bool | None = None
    """False if the response is not stored. Default: true."""
    background: bool | None = None
    """True if the request is answered at once, and the response can be fetched later. Needs `store`."""
    stream: bool | None = None
    include: list[Includable] | None = None
    """`message.output_text.logprobs` adds log-probabilities. Replies never have any of the others."""
    metadata: Annotated[dict[str, str], AfterValidator(_check_metadata)] | None = None
    """Returned; changes no answer."""
    tools: Annotated[list[Annotated[FunctionTool, BeforeValidator(_check_tool_type)]], Field(fail_fast=True)] | None = (
        None
    )
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: PositiveCount | None = None
    """Returned; changes no answer, because the server runs no tools itself."""
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """`auto`: a conversation that is too long loses its oldest turns. Default: such a request is an error."""
    max_output_tokens: PositiveCount | None = None
    """Maximum number of tokens of the answer, with its reasoning and calls."""
    top_logprobs: NumLogprobs | None = None
    """Number of alternatives to each token. A number above 0 asks for log-probabilities, as `include` does."""
    user: str | None = None
    """Returned; changes no answer."""
    safety_identifier: str | None = None
    """Returned; changes no answer."""
    prompt_cache_key: str | None = None
    """Returned; changes no answer. Equal beginnings of prompts are always cached."""
    # vLLM's additions.
    structured_outputs: StructuredOutputs | None = None
    """A rule for the text of the answer. Not possible together with `text.format`."""
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(check_template_variables)] | None = None
    """Variables of the model's chat template."""
    thinking_token_budget: Count | None = None
    """Maximum number of tokens of the reasoning. Then its end is forced."""
    include_reasoning: bool | None = None
    """False if the response leaves out the reasoning."""

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def num_logprobs(self) -> int | None:
        """Number of alternatives in the log-probabilities; None for no log-probabilities."""
        is_asked = self.top_logprobs or self.logprob_token_ids or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if is_asked else None

    @property
    def without_effect(self) -> tuple[str, ...]:
        summary = self.reasoning is not None and self.reasoning.summary is not None
        return ("reasoning.summary",) if summary else ()

    @model_validator(mode="after")
    def _a_background_response_is_stored(self) -> Self:
        if self.background and not self.is_stored:
            raise FieldError("background", "needs `store`, because the response is fetched from the store")
        return self

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        form = None if self.text is None else self.text.format
        if self.structured_outputs is not None and form is not None and form.type != "text":
            raise FieldError("structured_outputs", "not possible together with text.format; send only one of them")
        return self

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.input and self.previous_response_id is None:
            raise FieldError("input", "required, and not empty")
        return self
