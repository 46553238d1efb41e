"""The conversations on which templates are compared, with their further variables."""

import json
from collections.abc import Mapping
from typing import Any

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Weather of "Zürich" & <b>',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city"},
                    "days": {"type": "integer", "enum": [1, 2]},
                    "unit": {"type": ["string", "null"], "default": None},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "Time", "parameters": {"type": "object", "properties": {}}},
    },
]
ARGUMENTS = {"city": "Zürich", "days": 1, "f": 1.5, "b": True, "z": None, "l": [1, "a", {"k": "v"}]}
SYSTEM = {"role": "system", "content": "Be brief.  "}
USER = {"role": "user", "content": "  What is <b>1 + 1</b>? Größe 塔 🗼\n"}
ASSISTANT = {"role": "assistant", "content": "2\n"}
AGAIN = {"role": "user", "content": "Sure? 'one' \"two\" \\n {{ x }} {% y %}"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFour.", "reasoning_content": "hm"}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": '{"t": 21.5, "s": "schön"}'}


def calls(*arguments: Any, content: str | None = None) -> dict[str, Any]:
    """Return an assistant's message that calls the first tool with each of the arguments."""
    functions = [{"name": "get_weather", "arguments": each} for each in arguments]
    made = [{"id": "call12345", "type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": content, "tool_calls": made}


CONVERSATIONS: Mapping[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "a question": ([USER], {}),
    "a system prompt": ([SYSTEM, USER], {}),
    "turns": ([SYSTEM, USER, ASSISTANT, AGAIN], {}),
    "turns without a system prompt": ([USER, ASSISTANT, AGAIN, ASSISTANT, USER], {}),
    "many turns": ([SYSTEM, *([USER, ASSISTANT] * 10), AGAIN], {}),
    "no generation": ([SYSTEM, USER, ASSISTANT], {"add_generation_prompt": False}),
    "an empty question": ([{"role": "user", "content": ""}], {}),
    "no message": ([], {}),
    "another role": ([{"role": "developer", "content": "x"}, USER], {}),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "a ä"}, {"type": "text", "text": "b"}]}], {}),
    "nulls": ([{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": None}, AGAIN], {}),
    "no thinking": ([SYSTEM, USER], {"enable_thinking": False}),
    "thinking": ([SYSTEM, USER, THOUGHT, AGAIN], {"enable_thinking": True}),
    "tools": ([SYSTEM, USER], {"tools": TOOLS}),
    "a tool call": ([SYSTEM, USER, calls(ARGUMENTS), RESULT], {"tools": TOOLS}),
    "a tool call as text": (
        [USER, calls(json.dumps(ARGUMENTS), content=""), RESULT, ASSISTANT, AGAIN],
        {"tools": TOOLS},
    ),
    "two tool calls": ([USER, calls(ARGUMENTS, {}), RESULT, RESULT], {"tools": TOOLS}),
}
