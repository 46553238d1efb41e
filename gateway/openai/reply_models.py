"""The replies of OpenAI's endpoints and of vLLM's beside them, for the API document. reply.py builds the real ones."""

from typing import Literal

from pydantic import Field

from gateway.http.reply_models import ReplyModel, SamplingDefault, optional

FinishReason = Literal["stop", "length", "abort"]
ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call", "abort"]


class ModelObject(ReplyModel):
    """A model, and the parameters that requests to it sample with."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Unix time at which the server started, in seconds.")
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None = Field(
        description="Longest prompt and answer together, in tokens. Null while no worker has reported its limit."
    )
    sampling_defaults: dict[str, SamplingDefault] = Field(
        description="Parameters that apply to a chat request that sets none, by name."
    )


class ModelList(ReplyModel):
    """The models of a server."""

    object: Literal["list"]
    data: list[ModelObject]


class PromptTokensDetails(ReplyModel):
    """The origin of a prompt's tokens."""

    cached_tokens: int = Field(description="Prompt tokens whose keys and values were in the prefix cache.")


class CompletionTokensDetails(ReplyModel):
    """The uses of the answers' tokens."""

    reasoning_tokens: int = Field(description="Tokens of the reasoning, with its markers.")


class Usage(ReplyModel):
    """The number of tokens that a request used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = optional()
    completion_tokens_details: CompletionTokensDetails = optional()


class PromptCandidate(ReplyModel):
    """A token that could stand at a position of the prompt."""

    logprob: float | None
    rank: int | None = Field(
        description="Rank among the most probable tokens, from 1; null if it is not one of those asked for."
    )
    decoded_token: str


PromptLogprobs = list[dict[str, PromptCandidate] | None]


class TopLogprob(ReplyModel):
    """A token and its log-probability."""

    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer with its alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ReplyModel):
    """The log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None


class Function(ReplyModel):
    """A function that the model calls."""

    name: str
    arguments: str = Field(description="A JSON object.")


class ToolCall(ReplyModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: Function


class AssistantMessage(ReplyModel):
    """The answer to a conversation."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null if the answer has calls and no text.")
    refusal: None
    reasoning: str = optional("Absent if there is none.")
    reasoning_content: str = optional("Another name of `reasoning`.")
    tool_calls: list[ToolCall] = optional("Absent if there are none.")
    function_call: Function = optional("The call, if the request has `functions`.")


class ChatChoice(ReplyModel):
    """One of the answers to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    stop_reason: str | int | None = Field(description="The stop string or stop token that ended the answer.")
    token_ids: list[int] = optional()


class ChatCompletion(ReplyModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] = optional()
    prompt_logprobs: PromptLogprobs = optional()


class FunctionDelta(ReplyModel):
    """The next piece of a call's function."""

    name: str = optional("Only in the first piece.")
    arguments: str


class ToolCallDelta(ReplyModel):
    """The next piece of a call. Its first one has the id and the name."""

    index: int
    id: str = optional()
    type: Literal["function"] = optional()
    function: FunctionDelta


class ChatDelta(ReplyModel):
    """The next piece of an answer."""

    role: Literal["assistant"] = optional()
    content: str | None = optional()
    reasoning: str = optional()
    reasoning_content: str = optional("Another name of `reasoning`.")
    tool_calls: list[ToolCallDelta] = optional()
    function_call: FunctionDelta = optional("The call, if the request has `functions`.")


class ChatChunkChoice(ReplyModel):
    """The answer that a chunk continues."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None = Field(description="Null until the choice's last chunk.")
    stop_reason: str | int | None = optional()
    token_ids: list[int] = optional()


class ChatCompletionChunk(ReplyModel):
    """A chunk of the stream of answers to a conversation."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChunkChoice] = Field(
        description="One choice; none in the chunk that has the usage of the whole stream."
    )
    usage: Usage | None = optional()
    prompt_token_ids: list[int] = optional()


class CompletionLogprobs(ReplyModel):
    """The log-probabilities of a completion's tokens."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float | None] | None]


class CompletionChoice(ReplyModel):
    """One of the completions of a prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = Field(description="The stop string or stop token that ended the answer.")
    token_ids: list[int] = optional()
    prompt_token_ids: list[int] = optional()
    prompt_logprobs: PromptLogprobs = optional()


class Completion(ReplyModel):
    """The completions of the prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(ReplyModel):
    """The completion that a chunk continues."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None = Field(description="Null until the choice's last chunk.")
    stop_reason: str | int | None = optional()
    token_ids: list[int] = optional()
    prompt_token_ids: list[int] = optional()


class CompletionChunk(ReplyModel):
    """A chunk of the stream of completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChunkChoice] = Field(
        description="One choice; none in the chunk that has the usage of the whole stream."
    )
    usage: Usage | None = optional()


class TokenizeReply(ReplyModel):
    """The tokens of a text."""

    count: int
    max_model_len: int = Field(description="Longest prompt and answer together, in tokens.")
    tokens: list[int]
    token_strs: list[str] | None = Field(description="The tokens' texts, if `return_token_strs` is true.")


class DetokenizeReply(ReplyModel):
    """The text of tokens."""

    prompt: str
