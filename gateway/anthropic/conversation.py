"""The conversion of request bodies of Anthropic's API into messages in OpenAI's form, which all conversions of chats read."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from gateway.anthropic.blocks import ContentBlock, TextBlock
from gateway.anthropic.schemas import CountTokensRequest, Message

JSONObject = dict[str, Any]
# Claude Code writes this line before its system prompt. It differs from turn to turn, so no prefix of the prompt would be cached.
_BILLING_LINE = re.compile(r"^x-anthropic-billing-header:[^\n]*(?:\n|\Z)", re.MULTILINE)
ERROR_PREFIX = "Error: "
"""Precedes the result of a tool that failed, because chat templates have no sign for it."""


def conversation_messages(body: CountTokensRequest) -> list[JSONObject]:
    """Return the system prompt and the messages. Messages of the same role that follow each other are one message."""
    system = _system_text(body.system or ())
    messages: list[JSONObject] = [{"role": "system", "content": system}] if system else []
    for role, following in groupby(body.messages, key=lambda message: message.role):
        match role:
            case "user":
                blocks = [block for message in following for block in message.content]
                messages += _user_messages(blocks) if blocks else [{"role": "user", "content": ""}]
            case "assistant":
                messages.append(_assistant_message(list(following)))
            case "system":
                text = "\n".join(filter(None, (_system_text(message.content) for message in following)))
                messages += [{"role": "system", "content": text}] if text else []
    return messages


def _system_text(blocks: Sequence[TextBlock | ContentBlock]) -> str:
    return "\n".join(filter(None, (_BILLING_LINE.sub("", block.text or "") for block in blocks)))


def _user_messages(blocks: Iterable[ContentBlock]) -> Iterator[JSONObject]:
    """Yield a message for each result of a tool, and one for the texts between them."""
    for is_result, group in groupby(blocks, key=lambda block: block.type == "tool_result"):
        if is_result:
            yield from map(_tool_message, group)
        else:
            yield {"role": "user", "content": "\n".join(block.text or "" for block in group)}


def _tool_message(block: ContentBlock) -> JSONObject:
    text = "\n".join(part.text for part in block.content or ())
    prefix = ERROR_PREFIX if block.is_error and not text.startswith(ERROR_PREFIX) else ""
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": prefix + text}


def _assistant_message(following: Sequence[Message]) -> JSONObject:
    """Return one message of the assistant. The blocks of a message are parts of one answer, so nothing is between their texts."""
    blocks = [block for message in following for block in message.content]
    texts = ("".join(block.text or "" for block in message.content) for message in following)
    reasoning = "".join(block.thinking or "" for block in blocks)
    calls = [_call(block) for block in blocks if block.type == "tool_use"]
    return {
        "role": "assistant",
        "content": "\n".join(filter(None, texts)),
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _call(block: ContentBlock) -> JSONObject:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
