"""The conversion of a client's messages, with tool calls and their results, into those that chat templates read."""

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

_ID_CHARACTERS = string.digits + string.ascii_letters


def template_messages(messages: Sequence[Mapping[str, Any]], *, id_length: int = 0) -> list[dict[str, Any]]:
    """Return the messages in the form that Conversation describes.

    The messages have OpenAI's form, with reasoning in `reasoning_content`. Arguments may be JSON text or an object. A call without
    an id gets one, and a result without one belongs to the first call that has none. If `id_length` is not 0, ids of another length
    are replaced, each always by the same one.
    """
    calls = _Calls(id_length)
    return [_template_message(message, calls) for message in messages]


def _template_message(message: Mapping[str, Any], calls: "_Calls") -> dict[str, Any]:
    role = message["role"]
    converted = {"role": role, "content": message.get("content") or ""}
    if role == "assistant":
        if reasoning := message.get("reasoning_content"):
            converted["reasoning_content"] = reasoning
        if tool_calls := [calls.add_call(call) for call in message.get("tool_calls") or ()]:
            converted["tool_calls"] = tool_calls
    elif role == "tool":
        converted |= calls.answer_call(message.get("tool_call_id"), message.get("name"))
    return converted


@dataclass(slots=True)
class _Calls:
    """The calls of a conversation so far."""

    id_length: int
    names: dict[str, str] = field(default_factory=dict)
    """The name of the tool by the call's id."""
    num_calls: int = 0
    unanswered: list[str] = field(default_factory=list)
    """Ids of the calls whose result has not come."""

    def add_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        call_id = self._fitted(call.get("id") or f"call_{self.num_calls}")
        self.num_calls += 1
        self.names[call_id] = function["name"]
        self.unanswered.append(call_id)
        arguments = _as_object(function.get("arguments"))
        return {"id": call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}

    def answer_call(self, call_id: str | None, name: str | None) -> dict[str, str]:
        """Return the id and the name of the call that a result belongs to."""
        known = self._fitted(call_id) if call_id else self._first_unanswered(name)
        if known in self.unanswered:
            self.unanswered.remove(known)
        return {"tool_call_id": known, "name": name or self.names.get(known, "")}

    def _first_unanswered(self, name: str | None) -> str:
        named = (each for each in self.unanswered if name in (None, self.names[each]))
        return next(named, self._fitted(f"call_{self.num_calls}"))

    def _fitted(self, call_id: str) -> str:
        if not self.id_length or re.fullmatch(rf"[A-Za-z0-9]{{{self.id_length}}}", call_id):
            return call_id
        digest = hashlib.sha256(call_id.encode("utf-8", "replace")).digest()
        return "".join(_ID_CHARACTERS[byte % len(_ID_CHARACTERS)] for byte in digest[: self.id_length])


def _as_object(arguments: Any) -> Any:
    """Return arguments as an object. A text that is no JSON object stays a text, so that nothing that a model wrote is lost."""
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        parsed = orjson.loads(arguments) if arguments.strip() else {}
    except orjson.JSONDecodeError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
