"""The messages of a conversation in OpenAI's API, with tool calls, their results and reasoning."""

from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gateway.http.fields import MAX_MESSAGES, TextOrList, described
from gateway.http.schema import FieldError, Schema

MAX_CALLS = 1024
_ROLES = {"developer": "system", "function": "tool"}
"""Roles with another name, in the words of ChatAsk."""
CallId = Annotated[str, Field(max_length=256)]
FunctionName = Annotated[str, Field(min_length=1, max_length=256)]


class TextPart(Schema):
    """A part of a message. Images, audio and files are not supported."""

    type: Literal["text"]
    text: str


class CalledFunction(Schema):
    """A function that the model has called."""

    name: FunctionName
    arguments: Annotated[str | dict[str, Any], described("a string of JSON, or an object")] | None = None


class CallMade(Schema):
    """A tool call of an earlier answer."""

    # Clients that assemble a stream send the index back.
    hints = frozenset({"index"})

    id: CallId | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class ChatMessage(Schema):
    """A message of a conversation."""

    # Neutral are the fields that a client sends back with an earlier answer of the server.
    neutral = MappingProxyType({"annotations": ([],), "audio": (), "refusal": ()})

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: TextOrList[Annotated[list[TextPart], Field(fail_fast=True)]] | None = None
    """The text of the message. Only an assistant's message may have none."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """The name of the tool whose result the message is. It changes nothing in other messages."""
    tool_calls: Annotated[list[CallMade], Field(max_length=MAX_CALLS, fail_fast=True)] | None = None
    tool_call_id: CallId | None = None
    """The id of the call whose result the message is. Default: the first call without a result."""
    function_call: CalledFunction | None = None
    """The older form of one tool call."""
    reasoning: str | None = None
    """The reasoning of an earlier answer. Most templates leave out all but the latest."""
    reasoning_content: str | None = None
    """Another name of `reasoning`."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise FieldError("content", "required")
        return self

    @model_validator(mode="after")
    def _only_an_assistant_calls(self) -> Self:
        for name in ("tool_calls", "function_call"):
            if getattr(self, name) and self.role != "assistant":
                raise FieldError(name, f"only possible in a message of the role 'assistant' (got {self.role!r})")
        if self.tool_calls and self.function_call:
            raise FieldError("function_call", "not possible together with tool_calls; send only one of them")
        return self

    @model_validator(mode="after")
    def _only_a_result_answers(self) -> Self:
        if self.tool_call_id is not None and self.role != "tool":
            raise FieldError("tool_call_id", f"only possible in a message of the role 'tool' (got {self.role!r})")
        if self.role == "function" and not self.name:
            raise FieldError("name", "required in a message of the role 'function'")
        return self

    def as_asked(self) -> dict[str, Any]:
        """Return the message in the form that ChatAsk has."""
        content = self.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content or ())
        message: dict[str, Any] = {"role": _ROLES.get(self.role, self.role), "content": text}
        calls = [(call.id, call.function) for call in self.tool_calls or ()]
        calls += [(None, self.function_call)] if self.function_call else []
        if calls:
            functions = [(call_id, each.name, each.arguments) for call_id, each in calls]
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for call_id, name, arguments in functions
            ]
        if self.role in ("tool", "function"):
            message |= {"name": self.name, "tool_call_id": self.tool_call_id}
        return message | {"reasoning_content": self.reasoning_content or self.reasoning}


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
