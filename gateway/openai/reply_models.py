"""The replies of OpenAI's endpoints and of vLLM's beside them, for the API document. reply.py builds the real ones."""

from typing import Literal

from pydantic import Field

from gateway.http.reply_models import ReplyModel, SamplingDefault, optional

FinishReason = Literal["stop", "length", "abort"]


class ModelObject(ReplyModel):
    id: str
    object: Literal["model"]
    created: int = Field(description="Unix time at which the server started, in seconds.")
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None = Field(
        description="Longest prompt and answer together, in tokens. Null while no worker has told its limit."
    )
    sampling_defaults: dict[str, SamplingDefault] = Field(
        description="Parameters of a chat that leaves everything open, by name."
    )


class ModelList(ReplyModel):
    object: Literal["list"]
    data: list[ModelObject]


class PromptTokensDetails(ReplyModel):
    cached_tokens: int = Field(description="Prompt tokens whose keys and values were in the prefix cache.")


class Usage(ReplyModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = optional()


class PromptCandidate(ReplyModel):
    logprob: float | None
    rank: int | None = Field(
        description="Rank among the most probable tokens, from 1; null if it is not one of those asked for."
    )
    decoded_token: str


PromptLogprobs = list[dict[str, PromptCandidate] | None]


class TopLogprob(ReplyModel):
    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ReplyModel):
    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(ReplyModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(ReplyModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = Field(description="The stop string or stop token that ended the answer.")
    token_ids: list[int] = optional()


class ChatCompletion(ReplyModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] = optional()
    prompt_logprobs: PromptLogprobs = optional()


class ChatDelta(ReplyModel):
    role: Literal["assistant"] = optional()
    content: str = optional()


class ChatChunkChoice(ReplyModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None = Field(description="Null until the choice's last chunk.")
    stop_reason: str | int | None = optional()
    token_ids: list[int] = optional()


class ChatCompletionChunk(ReplyModel):
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
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float | None] | None]


class CompletionChoice(ReplyModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = Field(description="The stop string or stop token that ended the answer.")
    token_ids: list[int] = optional()
    prompt_token_ids: list[int] = optional()
    prompt_logprobs: PromptLogprobs = optional()


class Completion(ReplyModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(ReplyModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None = Field(description="Null until the choice's last chunk.")
    stop_reason: str | int | None = optional()
    token_ids: list[int] = optional()
    prompt_token_ids: list[int] = optional()


class CompletionChunk(ReplyModel):
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
    count: int
    max_model_len: int = Field(description="Longest prompt and answer together, in tokens.")
    tokens: list[int]
    token_strs: list[str] | None = Field(description="The tokens' texts, if `return_token_strs` is true.")


class DetokenizeReply(ReplyModel):
    prompt: str
