"""The replies of the Responses API, for the API document. reply.py and output_items.py build the real ones."""

from typing import Any, Literal

from pydantic import Field

from gateway.http.reply_models import ReplyModel, optional

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
Role = Literal["user", "assistant", "system", "developer"]


class ResponseTopLogprob(ReplyModel):
    """A token and its log-probability."""

    token: str
    logprob: float | None
    bytes: list[int]


class ResponseLogprob(ResponseTopLogprob):
    """A token of an answer with its alternatives."""

    top_logprobs: list[ResponseTopLogprob]


class InputText(ReplyModel):
    """A text that the client sent."""

    type: Literal["input_text"]
    text: str


class OutputText(ReplyModel):
    """A text of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(description="Always empty.", max_length=0)
    logprobs: list[ResponseLogprob] = optional()


class ReasoningPart(ReplyModel):
    """A text of the model's reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class MessageOutput(ReplyModel):
    """A message."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Role
    content: list[OutputText | InputText]


class ReasoningOutput(ReplyModel):
    """The reasoning before an answer or a call."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[ReasoningPart]
    content: list[ReasoningPart]


class CallOutput(ReplyModel):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = Field(description="JSON text.")


class CallResult(ReplyModel):
    """The result of a call."""

    id: str
    type: Literal["function_call_output"]
    status: ItemStatus
    call_id: str
    output: str | list[InputText]


OutputItemModel = MessageOutput | ReasoningOutput | CallOutput


class ResponseFailure(ReplyModel):
    """The reason why a response failed."""

    code: str
    message: str


class IncompleteDetails(ReplyModel):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class InputTokensDetails(ReplyModel):
    """The origin of a prompt's tokens."""

    cached_tokens: int = Field(description="Prompt tokens whose keys and values were in the prefix cache.")
    cache_write_tokens: int = Field(description="Always 0: nothing is billed for writing to the cache.")


class ResponseTokensDetails(ReplyModel):
    """The kinds of an answer's tokens."""

    reasoning_tokens: int


class ResponseUsage(ReplyModel):
    """The number of tokens that a response used."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: ResponseTokensDetails
    total_tokens: int


class ResponseObject(ReplyModel):
    """A response, with the parameters of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItemModel]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float | None = Field(description="The temperature that applied, after the model's defaults.")
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None = Field(description="The nucleus that applied, after the model's defaults.")
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = Field(description="Null until the response is complete.")
    user: str | None


class DeletedResponse(ReplyModel):
    """The confirmation that a response was deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItemList(ReplyModel):
    """A page of the items of a response's input."""

    object: Literal["list"]
    data: list[MessageOutput | ReasoningOutput | CallOutput | CallResult]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _Event(ReplyModel):
    """An event of a stream."""

    sequence_number: int = Field(description="Number of the event in its stream, from 0, without gaps.")


class LifecycleEvent(_Event):
    """A new state of the response. The last event of a stream is one of these."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class OutputItemEvent(_Event):
    """The beginning or the end of an item."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItemModel


class _ItemEvent(_Event):
    """An event of one item."""

    item_id: str
    output_index: int


class ContentPartEvent(_ItemEvent):
    """The beginning or the end of a part of an item."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputText | ReasoningPart


class TextDeltaEvent(_ItemEvent):
    """More text of a message."""

    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[ResponseLogprob]


class TextDoneEvent(_ItemEvent):
    """The whole text of a message."""

    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[ResponseLogprob]


class ReasoningDeltaEvent(_ItemEvent):
    """More reasoning."""

    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


class ReasoningDoneEvent(_ItemEvent):
    """The whole reasoning."""

    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


class ArgumentsDeltaEvent(_ItemEvent):
    """More of the arguments of a call."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(_ItemEvent):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(_Event):
    """The only event of a stream whose response could not be created."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


EVENTS = (
    LifecycleEvent,
    OutputItemEvent,
    ContentPartEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ErrorEvent,
)
