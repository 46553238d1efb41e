"""The replies of Anthropic's endpoints, for the API document. replies.py builds the real ones."""

from typing import Any, Literal

from pydantic import Field

from gateway.http.reply_models import ReplyModel, optional

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnthropicErrorDetails(ReplyModel):
    """The description of an error in Anthropic's API."""

    type: str
    message: str
    details: dict[str, Any] = optional("The features that the client has to do without.")


class AnthropicError(ReplyModel):
    """An error of Anthropic's API."""

    type: Literal["error"]
    error: AnthropicErrorDetails


class TokenCount(ReplyModel):
    """The number of a prompt's tokens."""

    input_tokens: int


class OutputTokensDetails(ReplyModel):
    """The kinds of an answer's tokens."""

    thinking_tokens: int = Field(description="Tokens of the thinking, with its markers.")


class MessageUsage(ReplyModel):
    """The number of tokens that a request used."""

    input_tokens: int = Field(description="Prompt tokens that were not in the prefix cache.")
    cache_creation_input_tokens: int = Field(description="Always 0: nothing is billed for writing to the cache.")
    cache_read_input_tokens: int = Field(description="Prompt tokens whose keys and values were in the prefix cache.")
    output_tokens: int
    output_tokens_details: OutputTokensDetails = optional()


class TextReplyBlock(ReplyModel):
    """A text of the answer."""

    type: Literal["text"]
    text: str


class ThinkingReplyBlock(ReplyModel):
    """The reasoning before the answer."""

    type: Literal["thinking"]
    thinking: str
    signature: Literal[""]


class ToolUseReplyBlock(ReplyModel):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


ReplyBlock = TextReplyBlock | ThinkingReplyBlock | ToolUseReplyBlock


class MessageReply(ReplyModel):
    """The answer to a conversation."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ReplyBlock]
    stop_reason: StopReason | None = Field(description="Null only at the start of a stream.")
    stop_sequence: str | None = Field(description="The stop sequence that ended the answer.")
    usage: MessageUsage


class MessageStart(ReplyModel):
    """The event that begins a stream: a message without content."""

    type: Literal["message_start"]
    message: MessageReply


class Ping(ReplyModel):
    """An event without contents."""

    type: Literal["ping"]


class ContentBlockStart(ReplyModel):
    """The event that begins a content block."""

    type: Literal["content_block_start"]
    index: int
    content_block: ReplyBlock


class TextPiece(ReplyModel):
    """More of a text."""

    type: Literal["text_delta"]
    text: str


class ThinkingPiece(ReplyModel):
    """More of the reasoning."""

    type: Literal["thinking_delta"]
    thinking: str


class SignaturePiece(ReplyModel):
    """The signature of a thinking block, which is empty."""

    type: Literal["signature_delta"]
    signature: Literal[""]


class InputPiece(ReplyModel):
    """More of the arguments of a call, as JSON text."""

    type: Literal["input_json_delta"]
    partial_json: str


class ContentBlockDelta(ReplyModel):
    """The event that continues a content block."""

    type: Literal["content_block_delta"]
    index: int
    delta: TextPiece | ThinkingPiece | SignaturePiece | InputPiece


class ContentBlockStop(ReplyModel):
    """The event that ends a content block."""

    type: Literal["content_block_stop"]
    index: int


class MessageEnd(ReplyModel):
    """The reason why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(ReplyModel):
    """The event with the usage of the whole answer and the reason of its end."""

    type: Literal["message_delta"]
    delta: MessageEnd
    usage: MessageUsage


class MessageStop(ReplyModel):
    """The last event of a stream."""

    type: Literal["message_stop"]
