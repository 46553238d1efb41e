"""The ways in which chat templates differ in what they expect of an assistant's earlier calls and reasoning."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.prompts.template_renderer import ChatTemplateError

_OTHER_REASONING_KEYS = ("thinking", "reasoning")
_PROBE = "pagoda_probe"
_PROBE_CALL = {"id": "probe0001", "type": "function", "function": {"name": "probe", "arguments": {_PROBE: "value"}}}
_SECOND_PROBE = "pagoda_second"
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


def takes_one_call(render: Render, *, as_text: bool) -> bool:
    """Return True if the template refuses, or leaves out, the second call of a message, although it takes both one by one."""
    second = {**_PROBE_CALL, "id": "probe0002", "function": {"name": "probe", "arguments": {_SECOND_PROBE: "value"}}}
    called: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL, second]}
    together = [
        {"role": "user", "content": "Probe"},
        with_arguments_as_text(called) if as_text else called,
        *(_result_of(call) for call in (_PROBE_CALL, second)),
    ]
    return not _shows_both(render, together) and _shows_both(render, with_one_call_each(together))


def with_one_call_each(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with a message of its own for each call, which its result follows."""
    divided: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for message in reversed(messages):
        if message["role"] == "tool":
            results.insert(0, dict(message))
            continue
        calls = message.get("tool_calls") or ()
        divided = (_divided(message, calls, results) if len(calls) > 1 else [dict(message), *results]) + divided
        results = []
    return results + divided


def _divided(
    message: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    rest, divided = list(results), list[dict[str, Any]]()
    for index, call in enumerate(calls):
        # The text and the reasoning are before the first call.
        around = dict(message) if index == 0 else {"role": message["role"], "content": ""}
        divided.append({**around, "tool_calls": [call]})
        result = next((each for each in rest if each.get("tool_call_id") == call.get("id")), None)
        if result is not None:
            rest.remove(result)
            divided.append(result)
    return divided + rest


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
    call = with_arguments_as_text(called) if as_text else called
    return render([{"role": "user", "content": "Probe"}, call, _result_of(_PROBE_CALL)], [_PROBE_TOOL])


def _shows_both(render: Render, messages: list[dict[str, Any]]) -> bool:
    try:
        prompt = render(messages, [_PROBE_TOOL])
    except ChatTemplateError:
        return False
    return _PROBE in prompt and _SECOND_PROBE in prompt


def _result_of(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "content": "done", "tool_call_id": call["id"], "name": "probe"}


def _with_arguments(message: Mapping[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return dict(message)
    calls = [
        {**call, "function": {**call["function"], "arguments": convert(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}
