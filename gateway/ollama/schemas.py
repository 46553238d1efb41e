"""The request bodies of Ollama's endpoints for text: generate and chat. message_schemas.py has messages and tools."""

from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from gateway.chat.tool_definitions import read_tool_choice, read_tools
from gateway.constraints.json_rule import json_object_rule, json_schema_rule
from gateway.constraints.text_rule import TextRule
from gateway.http.fields import (
    Integer,
    KeepAlive,
    MinP,
    ModelName,
    NumLogprobs,
    Penalty,
    PositiveCount,
    RepetitionPenalty,
    Seed,
    Stop,
    TokenId,
    TopP,
    described,
    keep_alive_seconds,
    whole_items,
)
from gateway.http.schema import FieldError, Schema, with_example
from gateway.ollama.message_schemas import Format, Messages, Think, Tools
from gateway.prompts.tools import Tool, ToolChoice
from pagoda.models.parameters import HINTS, NEUTRAL
from pagoda.wire.sampling import MAX_TEMPERATURE


class Options(Schema):
    """Sampling parameters and limits. Options for Ollama's runner (memory, threads, layers) are ignored."""

    neutral = NEUTRAL
    hints = HINTS

    num_predict: Annotated[Integer, Field(ge=-2, le=2**31 - 1)] | None = None
    num_ctx: PositiveCount | None = None
    seed: Seed | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    top_p: TopP | None = None
    min_p: MinP | None = None
    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: Annotated[Integer, Field(ge=-1, le=2**31 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: Stop | None = None


# `shift` is about an answer that outgrows the window. Here such an answer always ends.
_HINTS = frozenset({"shift"})


class _GenerationRequest(Schema):
    hints: ClassVar[frozenset[str]] = _HINTS

    model: ModelName = ""
    stream: bool | None = None
    keep_alive: KeepAlive | None = None
    options: Options | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    format: Format | None = None
    """The form of the answer's text: `json` for any JSON object, or a JSON Schema."""
    think: Think | None = None
    """True if the model thinks before it answers, or a level of thinking. For models without levels, any level is `true`."""
    debug_render_only: Annotated[bool | None, Field(alias="_debug_render_only")] = None
    """True if the reply is the prompt as the model would get it, and nothing is generated."""
    truncate: bool | None = None
    """True (default) if a prompt that is longer than the window loses its oldest part; false if it is an error."""

    @cached_property
    def text(self) -> TextRule | None:
        """The rule for the answer's text; None if it is free. Raises InvalidRequestError for what is no schema."""
        if self.format in (None, ""):
            return None
        return json_object_rule("format") if self.format == "json" else json_schema_rule(self.format, "format")

    @model_validator(mode="after")
    def _form_is_valid(self) -> Self:
        _ = self.text  # here, because a long body is validated in a thread
        return self

    @property
    def keep_alive_s(self) -> float | None:
        return keep_alive_seconds(self.keep_alive)

    @property
    def unloads(self) -> bool:
        """True if keep_alive is zero, in any spelling."""
        return self.keep_alive_s == 0


class GenerateRequest(_GenerationRequest):
    """A prompt to answer."""

    model_config = with_example({"model": "smollm2:135m", "prompt": "What is the capital of Peru?"})

    neutral = MappingProxyType({"images": ([],)})

    prompt: str | None = None
    suffix: str | None = None
    """The text after the answer, for models that can fill: the prompt is the text before it, and has no template."""
    system: str | None = None
    template: str | None = None
    """A template in Jinja, or a known Go template, that replaces the model's own."""
    context: Annotated[list[TokenId], Field(fail_fast=True), whole_items] | None = None
    """The `context` of the reply to an earlier turn."""
    raw: bool | None = None
    """True if the prompt is the model's whole input: no template, system prompt or context is added."""

    @model_validator(mode="after")
    def _raw_is_raw(self) -> Self:
        if self.raw and self.think:
            raise FieldError("think", "raw mode has no template, so it does not support think")
        for name in ("template", "system", "context"):
            if self.raw and getattr(self, name):
                raise FieldError(name, "raw mode does not support template, system, or context")
        return self

    @model_validator(mode="after")
    def _a_gap_has_no_template(self) -> Self:
        for name in ("template", "system", "context", "think"):
            if self.suffix and getattr(self, name):
                raise FieldError(name, "not possible together with suffix, since such a prompt has no template")
        return self


class OllamaChatRequest(_GenerationRequest):
    """A conversation to answer."""

    model_config = with_example(
        {"model": "smollm2:135m", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}
    )

    messages: Messages | None = None
    tools: Tools | None = None
    """Functions that the model may call."""
    tool_choice: Annotated[str | dict[str, Any], described("a string or an object")] | None = None
    """`none`, `auto` (the default), `required`, one function, or a list of allowed functions, as in chat completions."""
    parallel_tool_calls: bool | None = None
    """False if an answer may have at most one call."""

    @cached_property
    def offered_tools(self) -> tuple[Tool, ...]:
        return read_tools(self.tools or ())

    @cached_property
    def chosen_tools(self) -> ToolChoice:
        return read_tool_choice(self.tool_choice, self.offered_tools, parallel=self.parallel_tool_calls)

    @model_validator(mode="after")
    def _tools_are_valid(self) -> Self:
        _ = self.chosen_tools
        return self
