"""The conversion of the bodies of /api/chat and /api/generate into what a chat asks, the same for all APIs."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.chat.ask import ChatAsk
from gateway.models.served_model import ServedModel
from gateway.ollama.message_schemas import OllamaMessage, OllamaToolCall
from gateway.ollama.schemas import GenerateRequest, OllamaChatRequest
from gateway.prompts.conversation import ChatEnding

DEFAULT_EFFORT = "medium"
"""Level of thinking for a client that names none, in models that know levels."""


def chat_ask(body: OllamaChatRequest, model: ServedModel) -> ChatAsk:
    """Return what a chat asks, with the model's opening messages."""
    messages = model.with_opening_messages([_message(message) for message in body.messages or ()])
    # If the last message is the assistant's, the model continues it, unless the tools that it called are to answer.
    is_continued = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    thinks, effort = thinking(body)
    return ChatAsk(
        messages=messages,
        ending=ChatEnding.CONTINUED if is_continued else ChatEnding.BEGUN,
        tools=body.offered_tools,
        tool_choice=body.chosen_tools,
        text=body.text,
        thinks=thinks,
        effort=effort,
    )


def prompt_ask(body: GenerateRequest, messages: Sequence[Mapping[str, Any]]) -> ChatAsk:
    """Return what a prompt asks. The messages are those around it."""
    thinks, effort = thinking(body)
    return ChatAsk(messages=messages, text=body.text, thinks=thinks, effort=effort)


def thinking(body: GenerateRequest | OllamaChatRequest) -> tuple[bool | None, str | None]:
    """Return whether the model thinks, and how much."""
    match body.think:
        case True:
            return True, DEFAULT_EFFORT
        case str(level):
            return True, level
    return body.think, None


def _message(message: OllamaMessage) -> dict[str, Any]:
    converted: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "assistant":
        converted |= {"reasoning_content": message.thinking} if message.thinking else {}
        converted |= {"tool_calls": [_call(call) for call in message.tool_calls]} if message.tool_calls else {}
    elif message.role == "tool":
        converted |= {"tool_call_id": message.tool_call_id or None, "name": message.tool_name or None}
    return converted


def _call(call: OllamaToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id or None, "type": "function", "function": function}
