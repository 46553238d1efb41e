"""The replies of Ollama's endpoints, for the API document. replies.py and pagoda.models.ollama_objects build the real ones."""

from typing import Any, Literal

from pydantic import Field

from gateway.http.reply_models import ReplyModel, SamplingDefault, optional


class OllamaVersion(ReplyModel):
    """The server's version."""

    version: str


class OllamaTopLogprob(ReplyModel):
    """A token and its log-probability."""

    token: str
    logprob: float | None
    bytes: list[int]


class OllamaLogprob(OllamaTopLogprob):
    """A token of the answer with its alternatives."""

    top_logprobs: list[OllamaTopLogprob]


class OllamaDebugInfo(ReplyModel):
    """The prompt of a request, for which nothing was generated."""

    rendered_template: str = Field(description="The prompt as the model gets it, with its special tokens.")


class _Answer(ReplyModel):
    """A piece of an answer. The last piece has `done: true` and the counts; durations are in nanoseconds."""

    model: str
    created_at: str
    done: bool
    logprobs: list[OllamaLogprob] = optional()
    done_reason: Literal["stop", "length", "abort", "load", "unload"] = optional()
    total_duration: int = optional("Time since the request arrived.")
    load_duration: int = optional("Time that the request waited for a worker.")
    prompt_eval_count: int = optional("Tokens of the prompt.")
    prompt_eval_duration: int = optional()
    eval_count: int = optional("Tokens of the answer.")
    eval_duration: int = optional()
    debug_info: OllamaDebugInfo = optional("The prompt, if `_debug_render_only` is true.", alias="_debug_info")


class OllamaGenerateReply(_Answer):
    """The answer to a prompt, or a piece of it. The last piece has `done: true` and the counts."""

    response: str
    thinking: str = optional("The reasoning before the answer.")
    context: list[int] = optional("Tokens of the prompt and the answer, for the next request's `context`.")


class OllamaReplyFunction(ReplyModel):
    """The function that the model calls."""

    index: int = Field(description="Number of the call in its answer, from 0.")
    name: str
    arguments: dict[str, Any]


class OllamaReplyToolCall(ReplyModel):
    """A call of the model."""

    id: str
    function: OllamaReplyFunction


class OllamaReplyMessage(ReplyModel):
    """The answer to a conversation, or a piece of it."""

    role: Literal["assistant"]
    content: str
    thinking: str = optional("The reasoning before the answer.")
    tool_calls: list[OllamaReplyToolCall] = optional("The calls of the model. Each is complete.")


class OllamaChatReply(_Answer):
    """The answer to a conversation, or a piece of it. The last piece has `done: true` and the counts."""

    message: OllamaReplyMessage


class OllamaModelDetails(ReplyModel):
    """The properties of a model's files."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: int
    embedding_length: int


class _ModelIdentity(ReplyModel):
    """The name and the digest of a model."""

    name: str
    model: str
    size: int = Field(description="Size of the model's files, in bytes.")
    digest: str


class OllamaModel(_ModelIdentity):
    """A model on this machine."""

    details: OllamaModelDetails
    modified_at: str
    capabilities: list[str]


class OllamaModelList(ReplyModel):
    """The models on this machine."""

    models: list[OllamaModel]


class OllamaRunningModel(_ModelIdentity):
    """A model in memory."""

    details: OllamaModelDetails = optional("Absent if the model's files were deleted.")
    expires_at: str = Field(description="Time at which the model leaves memory if no request uses it.")
    size_vram: int
    context_length: int
    status: Literal["loading"] = optional("Present while the model is being loaded.")
    total: int = optional("Bytes to load, while the model is being loaded.")
    completed: int = optional("Bytes that were loaded, while the model is being loaded.")


class OllamaRunningModels(ReplyModel):
    """The models in memory."""

    models: list[OllamaRunningModel]


class OllamaStoredMessage(ReplyModel):
    """A message that precedes each conversation with a model."""

    role: Literal["system", "user", "assistant"]
    content: str


class OllamaTensor(ReplyModel):
    """A tensor of a model."""

    name: str
    type: str
    shape: list[int]


class OllamaOutputFormat(ReplyModel):
    """The format in which a model writes reasoning and tool calls."""

    name: str
    source: Literal["response_template", "template", "fallback"] = Field(
        description="The place that names the format. `fallback` is a format of the server's own."
    )
    problem: str = optional("The reason to doubt the format, if the template's own calls are not read back.")


class OllamaShowReply(ReplyModel):
    """The description of a model."""

    license: str
    modelfile: str
    parameters: str
    sampling_defaults: dict[str, SamplingDefault] = Field(
        description="Parameters that apply to a request that sets none, by name."
    )
    template: str
    system: str
    details: OllamaModelDetails
    model_info: dict[str, Any] = Field(
        description="Metadata of the model's files. Long lists are empty unless `verbose` is true."
    )
    capabilities: list[str]
    output_format: OllamaOutputFormat = optional("The format of calls and reasoning, if the model has a chat template.")
    modified_at: str
    messages: list[OllamaStoredMessage] = optional("Messages that precede each conversation, if the model has any.")
    tensors: list[OllamaTensor] = optional("Tensors of the model, if `verbose` is true.")


class OllamaStatus(ReplyModel):
    """A step of a longer operation. The last step's status is `success`."""

    status: str
    digest: str = optional("Digest of the file that is being downloaded.")
    total: int = optional("Size of the file, in bytes.")
    completed: int = optional("Bytes of the file that are on this machine.")
