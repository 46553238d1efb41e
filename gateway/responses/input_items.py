"""The conversion of a response's input into items in their complete form, and of items into messages of a conversation.

Items in their complete form are what the store keeps, what clients get back, and what answers consist of.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.errors import InvalidRequestError
from gateway.http.schema import shown
from gateway.responses.ids import input_item_id
from gateway.responses.item_schemas import (
    InputCall,
    InputCallOutput,
    InputMessage,
    InputPart,
    InputReasoning,
    ItemReference,
    ReasoningText,
)

Item = dict[str, Any]
Message = dict[str, Any]
GivenItem = InputMessage | InputCall | InputCallOutput | InputReasoning | ItemReference


def referenced_ids(given: str | Sequence[GivenItem] | None) -> list[str]:
    """Return the ids of the stored items that the input refers to."""
    if given is None or isinstance(given, str):
        return []
    return [item.id for item in given if isinstance(item, ItemReference)]


def complete_items(
    given: str | Sequence[GivenItem] | None, response_id: str, stored: Callable[[str], Item]
) -> list[Item]:
    """Return the items of a response's input. `stored` returns the item of an id that the input refers to."""
    if given is None:
        return []
    if isinstance(given, str):
        given = [InputMessage(role="user", content=given)]
    return [
        stored(item.id) if isinstance(item, ItemReference) else _complete_item(item, response_id, index)
        for index, item in enumerate(given)
    ]


def check_results(items: Sequence[Item], num_earlier: int) -> None:
    """Raise InvalidRequestError if a result has no call before it. The first `num_earlier` items come from the store."""
    calls = set()
    for index, item in enumerate(items):
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            field = f"input.{max(0, index - num_earlier)}.call_id"
            raise InvalidRequestError(
                f"{field}: must be the `call_id` of a function_call before it (got {shown(item['call_id'])}); send that item "
                "again, or send `previous_response_id`",
                param=field,
            )


def messages_of(items: Iterable[Item], instructions: str | None) -> list[Message]:
    """Return the items as messages in OpenAI's form. What the assistant says and calls in one turn is one message."""
    messages: list[Message] = [] if instructions is None else [{"role": "system", "content": instructions}]
    for item in items:
        match item["type"]:
            case "reasoning":
                _turn(messages, "reasoning_content", "content", "tool_calls")["reasoning_content"] = _reasoning(item)
            case "message" if item["role"] == "assistant":
                _turn(messages, "content")["content"] = _joined(item["content"])
            case "message":
                role = "user" if item["role"] == "user" else "system"
                messages.append({"role": role, "content": _joined(item["content"])})
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                _turn(messages).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": _joined(item["output"])})
    return messages


def _turn(messages: list[Message], *excluded: str) -> Message:
    """Return the message of the assistant's present turn. A new one begins if that has one of the excluded fields."""
    if not messages or messages[-1]["role"] != "assistant" or any(name in messages[-1] for name in excluded):
        messages.append({"role": "assistant"})
    return messages[-1]


def _complete_item(
    item: InputMessage | InputCall | InputCallOutput | InputReasoning, response_id: str, index: int
) -> Item:
    kind = item.type or "message"
    common = {"id": item.id or input_item_id(response_id, kind, index), "type": kind, "status": "completed"}
    match item:
        case InputMessage():
            return common | {"role": item.role, "content": _parts(item.content, item.role)}
        case InputCall():
            return common | {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        case InputCallOutput():
            output = item.output if isinstance(item.output, str) else _parts(item.output, "user")
            return common | {"call_id": item.call_id, "output": output}
        case InputReasoning():
            return common | {"summary": _reasoning_parts(item.summary), "content": _reasoning_parts(item.content)}


def _parts(content: str | Sequence[InputPart], role: str) -> list[Item]:
    texts = [content] if isinstance(content, str) else [part.content for part in content]
    if role == "assistant":
        return [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return [{"type": "input_text", "text": text} for text in texts]


def _reasoning_parts(parts: Sequence[ReasoningText] | None) -> list[Item]:
    return [{"type": part.type, "text": part.text} for part in parts or ()]


def _reasoning(item: Mapping[str, Any]) -> str:
    return _joined(item["content"] or item["summary"])


def _joined(parts: str | Sequence[Mapping[str, Any]]) -> str:
    return parts if isinstance(parts, str) else "\n".join(part["text"] for part in parts)
