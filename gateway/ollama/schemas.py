"""The request bodies of Ollama's endpoints."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.http.fields import (
    MAX_MESSAGES,
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
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType({"_debug_render_only": (False,), "format": ("",)})


class _GenerationRequest(Schema):
    hints: ClassVar[frozenset[str]] = _HINTS

    model: ModelName = ""
    stream: bool | None = None
    keep_alive: KeepAlive | None = None
    options: Options | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    think: Annotated[bool, described("true or false: levels are not supported yet")] | None = None
    """True if the model is to think before it answers."""
    truncate: bool | None = None
    """True (default) if a prompt that is longer than the window loses its oldest part; false if it is an error."""

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

    neutral = MappingProxyType({**_NEUTRAL, "images": ([],), "suffix": ("",)})

    prompt: str | None = None
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


def _lower(role: Any) -> Any:
    return role.lower() if isinstance(role, str) else role


class OllamaMessage(Schema):
    """A message of a conversation."""

    neutral = MappingProxyType(
        {"images": ([],), "thinking": ("",), "tool_call_id": ("",), "tool_calls": ([],), "tool_name": ("",)}
    )

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_lower)]
    content: str = ""


Messages = Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)]


class OllamaChatRequest(_GenerationRequest):
    """A conversation to answer."""

    model_config = with_example(
        {"model": "smollm2:135m", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}
    )

    neutral = MappingProxyType({**_NEUTRAL, "tools": ([],)})

    messages: Messages | None = None


class _NamedModel(Schema):
    model: ModelName = ""
    name: ModelName = ""
    """The deprecated spelling of `model`."""

    @property
    def model_name(self) -> str:
        return self.model or self.name


class ShowRequest(_NamedModel):
    """A model to describe."""

    model_config = with_example({"model": "smollm2:135m"})

    neutral = MappingProxyType({"system": ("",), "template": ("",)})
    hints = frozenset({"options"})

    verbose: bool | None = None


class DeleteRequest(_NamedModel):
    """A model to delete."""

    model_config = with_example({"model": "my-model"})


class CopyRequest(Schema):
    """A model, and a further name for it."""

    model_config = with_example({"source": "smollm2:135m", "destination": "my-model"})

    source: ModelName = ""
    destination: ModelName = ""


class PullRequest(_NamedModel):
    """A model to download."""

    model_config = with_example({"model": "smollm2:135m"})

    # Credentials come from the server's environment (HF_TOKEN), not from requests.
    hints = frozenset({"password", "username"})

    insecure: bool | None = None
    stream: bool | None = None


MAX_FILES = 1024


class CreateRequest(_NamedModel):
    """A model to make, from another model or from files."""

    model_config = with_example({"model": "my-model", "from": "smollm2:135m", "system": "Answer in one sentence."})

    # What a Modelfile says only to Ollama (parser, renderer, requires, draft_files) is an unknown field: ignored, and named.
    neutral = MappingProxyType(
        {
            "adapters": ({},),
            "info": ({},),
            "modelfile": ("",),
            "path": ("",),
            "quantization": ("",),
            "quantize": ("",),
            "remote_host": ("",),
        }
    )

    from_: Annotated[ModelName | None, Field(alias="from")] = None
    """The name of a model in the store."""
    files: Annotated[dict[ModelName, str], Field(max_length=MAX_FILES)] | None = None
    """Digests of uploaded blobs by file name: one GGUF file, all parts of one, or the files of a safetensors checkpoint."""
    system: str | None = None
    template: str | None = None
    """A template in Jinja that replaces the one in the model's files. A Go template is used only if the files have none, and if
    Pagoda knows it."""
    license: (
        Annotated[str | Annotated[list[str], Field(fail_fast=True)], described("a string or a list of strings")] | None
    ) = None
    parameters: Options | None = None
    messages: Messages | None = None
    stream: bool | None = None

    @property
    def licenses(self) -> list[str]:
        return [self.license] if isinstance(self.license, str) else list(self.license or ())
