"""The request bodies of OpenAI's endpoints and of vLLM's /tokenize and /detokenize.

generation_schema.py has the fields that chat completions and completions share.
"""

from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.chat.template_variables import asked_thinking, check_template_variables, without_thinking
from gateway.chat.tool_definitions import MAX_TOOLS, read_functions, read_tool_choice, read_tools
from gateway.http.fields import (
    Count,
    Limit,
    ModelName,
    NumLogprobs,
    PositiveCount,
    TokenId,
    described,
    whole_items,
)
from gateway.http.schema import FieldError, Schema, with_example
from gateway.openai.chat_messages import Messages
from gateway.openai.generation_schema import GenerationRequest
from gateway.openai.known_fields import CHAT_HINTS, CHAT_NEUTRAL, COMPLETION_NEUTRAL
from gateway.prompts.tools import Tool, ToolChoice

MAX_CHOICES = 1024
MAX_DOCUMENTS = 1024


TemplateKwargs = Annotated[dict[str, Any], AfterValidator(check_template_variables)]
Functions = Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS, fail_fast=True)]
"""Tools, which gateway/chat/tool_definitions.py checks."""


class ConversationRequest(Schema):
    """A conversation, as the model's template writes it."""

    messages: Messages
    add_generation_prompt: bool | None = None
    """True if the prompt ends with the beginning of an answer. Default: true, unless the final message is continued."""
    continue_final_message: bool | None = None
    tools: Functions | None = None
    """Functions that the model may call."""
    chat_template_kwargs: TemplateKwargs | None = None
    """Variables of the model's template, such as `enable_thinking`: true if the model thinks before it answers."""
    chat_template: str | None = None
    """A template in Jinja that replaces the model's own. It needs a key with the scope `admin`, or
    `--trust-request-chat-template`."""

    @cached_property
    def offered_tools(self) -> tuple[Tool, ...]:
        return read_tools(self.tools or ())

    @property
    def thinks(self) -> bool | None:
        return asked_thinking(self.chat_template_kwargs or {})

    @property
    def template_variables(self) -> dict[str, Any]:
        return without_thinking(self.chat_template_kwargs or {})

    @model_validator(mode="after")
    def _tools_are_valid(self) -> Self:
        _ = self.offered_tools
        return self

    @model_validator(mode="after")
    def _the_final_message_is_continued_or_answered(self) -> Self:
        if self.continue_final_message and self.add_generation_prompt:
            raise FieldError("continue_final_message", "not possible together with add_generation_prompt")
        return self


class ChatRequest(ConversationRequest, GenerationRequest):
    """A conversation to answer."""

    model_config = with_example(
        {"messages": [{"role": "user", "content": "What is the capital of Peru?"}], "max_tokens": 50}
    )

    neutral = CHAT_NEUTRAL
    hints = CHAT_HINTS

    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    tool_choice: Annotated[str | dict[str, Any], described("a string or an object")] | None = None
    """`none`, `auto` (the default), `required`, one function, or a list of allowed functions."""
    parallel_tool_calls: bool | None = None
    """False if an answer may have at most one call."""
    functions: Functions | None = None
    """The older form of `tools`. Such a request is answered with `function_call` instead of `tool_calls`."""
    function_call: Annotated[str | dict[str, Any], described('"none", "auto" or {"name": ...}')] | None = None
    """The older form of `tool_choice`."""
    documents: Annotated[list[dict[str, Any]], Field(max_length=MAX_DOCUMENTS)] | None = None
    """Documents for models whose template reads them."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """`none` is the same as `enable_thinking: false`. X-Pagoda-Ignored names the field if the model knows no levels."""
    thinking_token_budget: Count | None = None
    """Maximum number of tokens of the reasoning. Then its end is forced."""
    include_reasoning: bool | None = None
    """False if the reply leaves out the reasoning."""

    @property
    def has_functions(self) -> bool:
        """True if the request has the older form of tools."""
        return bool(self.functions)

    @cached_property
    def offered_tools(self) -> tuple[Tool, ...]:
        return read_functions(self.functions or ()) if self.has_functions else read_tools(self.tools or ())

    @cached_property
    def chosen_tools(self) -> ToolChoice:
        """The choice among the tools."""
        if self.has_functions:
            chosen = self.function_call
            choice = {"type": "function", "function": chosen} if isinstance(chosen, dict) else chosen
            return read_tool_choice(choice, self.offered_tools, parallel=False, field="function_call")
        return read_tool_choice(self.tool_choice, self.offered_tools, parallel=self.parallel_tool_calls)

    @property
    def thinks(self) -> bool | None:
        return False if self.reasoning_effort == "none" else super().thinks

    @model_validator(mode="after")
    def _tools_have_one_form(self) -> Self:
        if self.tools and self.functions:
            raise FieldError("functions", "not possible together with tools; send only one of them")
        if self.function_call not in (None, "none", "auto") and not self.has_functions:
            raise FieldError("function_call", "only allowed together with functions")
        if self.tool_choice is not None and self.has_functions:
            raise FieldError("tool_choice", "not possible together with functions; send function_call")
        _ = self.chosen_tools
        return self

    @model_validator(mode="after")
    def _no_effort_is_no_thinking(self) -> Self:
        if self.reasoning_effort == "none" and super().thinks:
            raise FieldError("reasoning_effort", 'must not be "none" together with enable_thinking')
        return self

    @model_validator(mode="after")
    def _an_answer_has_a_token(self) -> Self:
        for name in ("max_completion_tokens", "max_tokens", "n_predict"):
            if getattr(self, name) == 0:
                raise FieldError(name, "must be at least 1, or -1 for no limit (got 0)")
        return self

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs", "only allowed when logprobs is true")
        if self.logprob_token_ids and not self.logprobs:
            raise FieldError("logprob_token_ids", "only allowed when logprobs is true")
        return self


_TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True), whole_items]
Prompt = Annotated[
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
    | _TokenIds
    | Annotated[list[_TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
    described(f"a string, a list of token ids, or a list of up to {MAX_CHOICES} of either, and not empty"),
]


class CompletionRequest(GenerationRequest):
    """One or several prompts to continue."""

    model_config = with_example({"prompt": "The capital of Peru is", "max_tokens": 20})

    neutral = COMPLETION_NEUTRAL

    prompt: Prompt
    max_tokens: Limit | None = None
    """Maximum number of tokens of the answer; -1 for no limit. 0 is only allowed with `echo`, for the prompt alone."""
    add_special_tokens: bool | None = None
    echo: bool | None = None
    logprobs: NumLogprobs | None = None
    best_of: PositiveCount | None = None
    suffix: str | None = None
    """The text after the completion, for models that can fill: the prompt is the text before it."""

    @model_validator(mode="after")
    def _a_gap_is_between_whole_texts(self) -> Self:
        for name in ("echo", "truncate_prompt_tokens"):
            if self.suffix and getattr(self, name):
                raise FieldError(name, "not possible together with suffix")
        return self

    @model_validator(mode="after")
    def _an_answer_has_a_token(self) -> Self:
        if self.n_predict == 0:
            raise FieldError("n_predict", "must be at least 1, or -1 for no limit (got 0)")
        if self.max_tokens == 0 and not self.echo:
            raise FieldError("max_tokens", "must be at least 1, or -1 for no limit, or 0 together with echo (got 0)")
        return self

    @model_validator(mode="after")
    def _logprobs_of_tokens_need_logprobs(self) -> Self:
        if self.logprob_token_ids and self.logprobs is None:
            raise FieldError("logprob_token_ids", "only allowed together with logprobs")
        if self.logprob_token_ids and self.max_tokens == 0:
            raise FieldError("logprob_token_ids", "not possible when max_tokens is 0: no token is generated")
        return self

    @model_validator(mode="after")
    def _best_of_chooses_nothing(self) -> Self:
        if self.best_of is not None and self.best_of != self.num_choices:
            raise FieldError(
                "best_of", f"must be equal to n, which is {self.num_choices} (got {self.best_of}): leave it out"
            )
        return self


class TokenizePromptRequest(Schema):
    """A text to tokenize."""

    model_config = with_example({"prompt": "The capital of Peru is", "return_token_strs": True})

    model: ModelName | None = None
    prompt: str
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChatRequest(ConversationRequest):
    """A conversation to tokenize, as the model's template writes it."""

    neutral = MappingProxyType({"add_special_tokens": (False, True)})

    model: ModelName | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Schema):
    """Tokens to convert into text."""

    model_config = with_example({"tokens": [1, 2, 3]})

    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True), whole_items]
