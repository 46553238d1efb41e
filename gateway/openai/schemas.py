"""The request bodies of OpenAI's endpoints and of vLLM's /tokenize and /detokenize.

generation_schema.py has the fields that chat completions and completions share.
"""

from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.http.fields import (
    MAX_MESSAGES,
    Limit,
    ModelName,
    NumLogprobs,
    PositiveCount,
    TokenId,
    described,
    whole_items,
)
from gateway.http.schema import FieldError, Schema, with_example
from gateway.openai.generation_schema import GenerationRequest
from gateway.openai.known_fields import CHAT_NEUTRAL, COMPLETION_NEUTRAL
from gateway.prompts.chat_template import THINKING_VARIABLES

MAX_CHOICES = 1024


class TextPart(Schema):
    """A part of a message."""

    type: Literal["text"]
    text: str


Content = Annotated[
    str | Annotated[list[TextPart], Field(fail_fast=True)], described("a string or a list of parts of the type `text`")
]


class ChatMessage(Schema):
    """A message of a conversation."""

    # Neutral are the fields that a client sends back with an earlier answer of the server.
    neutral = MappingProxyType(
        {
            "annotations": ([],),
            "audio": (),
            "function_call": (),
            "reasoning": ("",),
            "reasoning_content": ("",),
            "refusal": (),
            "tool_calls": ([],),
        }
    )
    hints = frozenset({"name"})

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[
            str | Annotated[list[TextPart], Field(fail_fast=True)],
            described("a string or a list of parts of the type `text`"),
        ]
        | None
    ) = None
    """The text of the message. Only an assistant's message may have none."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise FieldError("content", "required")
        return self


def _check_template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the value as `enable_thinking`. Templates have several names for it."""
    for name, value in kwargs.items():
        if name not in THINKING_VARIABLES:
            raise ValueError(f"supports only {' and '.join(THINKING_VARIABLES)}, not {name[:40]!r}")
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
    asked = {value for value in kwargs.values() if value is not None}
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(THINKING_VARIABLES)} must not differ")
    return {"enable_thinking": asked.pop()} if asked else {}


TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_check_template_kwargs)]


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(GenerationRequest):
    """A conversation to answer."""

    model_config = with_example(
        {"messages": [{"role": "user", "content": "What is the capital of Peru?"}], "max_tokens": 50}
    )

    neutral = CHAT_NEUTRAL

    messages: Messages
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    add_generation_prompt: bool | None = None
    """True if the prompt ends with the beginning of an answer. Default: true, unless the final message is continued."""
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    """Only `enable_thinking` or `thinking`: true if the model is to think before it answers."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """`none` is the same as `enable_thinking: false`. Other values are ignored, and X-Pagoda-Ignored names the field."""

    @property
    def without_effect(self) -> tuple[str, ...]:
        return ("reasoning_effort",) if self.reasoning_effort not in (None, "none") else ()

    @property
    def thinks(self) -> bool | None:
        asked = (self.chat_template_kwargs or {}).get("enable_thinking")
        return False if self.reasoning_effort == "none" else asked

    @model_validator(mode="after")
    def _no_effort_is_no_thinking(self) -> Self:
        if self.reasoning_effort == "none" and (self.chat_template_kwargs or {}).get("enable_thinking"):
            raise FieldError("reasoning_effort", 'must not be "none" together with enable_thinking')
        return self

    @model_validator(mode="after")
    def _an_answer_has_a_token(self) -> Self:
        for name in ("max_completion_tokens", "max_tokens", "n_predict"):
            if getattr(self, name) == 0:
                raise FieldError(name, "must be at least 1, or -1 for no limit (got 0)")
        return self

    @model_validator(mode="after")
    def _the_final_message_is_continued_or_answered(self) -> Self:
        if self.continue_final_message and self.add_generation_prompt:
            raise FieldError("continue_final_message", "not possible together with add_generation_prompt")
        return self

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs", "only allowed when logprobs is true")
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


class TokenizeChatRequest(Schema):
    """A conversation to tokenize, as the model's template writes it."""

    neutral = MappingProxyType(
        {
            "add_special_tokens": (False, True),
            "chat_template": (),
            "tools": ([],),
        }
    )

    model: ModelName | None = None
    messages: Messages
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    """The same as in chat completions."""
    return_token_strs: bool | None = None

    @property
    def thinks(self) -> bool | None:
        thinks: bool | None = (self.chat_template_kwargs or {}).get("enable_thinking")
        return thinks


class DetokenizeRequest(Schema):
    """Tokens to convert into text."""

    model_config = with_example({"tokens": [1, 2, 3]})

    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True), whole_items]
