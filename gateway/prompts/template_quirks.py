"""The ways in which chat templates differ in what they expect of an assistant's earlier calls and reasoning."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.prompts.template_renderer import ChatTemplateError

_OTHER_REASONING_KEYS = ("thinking", "reasoning")
_PROBE = "pagoda_probe"
_PROBE_CALL = {"id": "probe0001", "type": "function", "function": {"name": "probe", "arguments": {_PROBE: "value"}}}
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}},
}
Render = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str]
"""A function that renders messages and tools. It raises ChatTemplateError."""


def wants_arguments_as_text(render: Render) -> bool:
    """Return True if the template joins arguments to other text, so that they must be JSON text. Most serialize an object."""
    try:
        return f"'{_PROBE}'" in _rendered_probe(render, as_text=False)  # an object of Python, not JSON
    except ChatTemplateError:
        pass
    try:
        return _PROBE in _rendered_probe(render, as_text=True)
    except ChatTemplateError:
        return False


def with_arguments_as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message with the arguments of its calls as JSON text, with spaces, as models write it."""
    return _with_arguments(
        message, lambda each: each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
    )


def with_arguments_as_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message with all arguments as objects. A text that is none becomes the value of a parameter `arguments`."""
    return _with_arguments(message, lambda each: {"arguments": each} if isinstance(each, str) else each)


def has_arguments_as_text(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if a call's arguments are a text."""
    calls = (call for message in messages for call in message.get("tool_calls") or ())
    return any(isinstance(call["function"]["arguments"], str) for call in calls)


def reasoning_key(source: str) -> str:
    """Return the key under which the template reads the reasoning of an assistant's message."""
    if "reasoning_content" in source:
        return "reasoning_content"
    return next((key for key in _OTHER_REASONING_KEYS if _reads_key(source, key)), "reasoning_content")


def with_reasoning(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the message with its reasoning under the key that the template reads."""
    if key == "reasoning_content" or "reasoning_content" not in message:
        return dict(message)
    renamed = {name: value for name, value in message.items() if name != "reasoning_content"}
    reasoning = message["reasoning_content"]
    if key == "thinking" and message.get("tool_calls") and message["content"]:
        # The templates that call it so have one text before a call, and refuse two.
        return {**renamed, "content": "", key: f"{reasoning}\n{message['content']}"}
    return {**renamed, key: reasoning}


def _reads_key(source: str, key: str) -> bool:
    return re.search(rf"""\w\.{key}\b|\w\[['"]{key}['"]\]|\.get\(\s*['"]{key}['"]""", source) is not None


def _rendered_probe(render: Render, *, as_text: bool) -> str:
    called: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
    answered = {"role": "tool", "content": "done", "tool_call_id": _PROBE_CALL["id"], "name": "probe"}
    call = with_arguments_as_text(called) if as_text else called
    return render([{"role": "user", "content": "Probe"}, call, answered], [_PROBE_TOOL])


def _with_arguments(message: Mapping[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return dict(message)
    calls = [
        {**call, "function": {**call["function"], "arguments": convert(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}
