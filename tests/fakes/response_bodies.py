"""Bodies of POST /v1/responses around each of its fields, and a valid value of each field that differs from other APIs' fields."""

from collections.abc import Callable, Mapping
from typing import Any

Fields = Mapping[str, Any]

PATH = "/v1/responses"
RESPONSES = f"POST {PATH}"
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "Sunny"}
WEATHER = {"type": "function", "name": "weather"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT = {"type": "json_schema", "name": "place", "schema": PARAMETERS}


def _request(around: Callable[[Fields], Fields]) -> tuple[str, str, Callable[[Fields], Fields]]:
    return "POST", PATH, lambda fields: {"input": "Hi", **around(fields)}


def _part(fields: Fields) -> Fields:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi", **fields}]}]}


REQUESTS: Mapping[str, tuple[str, str, Callable[[Fields], Fields]]] = {
    RESPONSES: _request(lambda fields: fields),
    f"{RESPONSES}: messages in `input`": _request(lambda fields: {"input": [{**USER, **fields}]}),
    f"{RESPONSES}: parts of `content` and `output`": _request(_part),
    f"{RESPONSES}: calls in `input`": _request(lambda fields: {"input": [{**CALL, **fields}]}),
    f"{RESPONSES}: results of calls in `input`": _request(lambda fields: {"input": [CALL, {**OUTPUT, **fields}]}),
    f"{RESPONSES}: reasoning in `input`": _request(lambda fields: {"input": [USER, {"type": "reasoning", **fields}]}),
    f"{RESPONSES}: `tools`": _request(lambda fields: {"tools": [{**WEATHER, **fields}]}),
    f"{RESPONSES}: `tool_choice`": _request(
        lambda fields: {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather", **fields}}
    ),
    f"{RESPONSES}: `text`": _request(lambda fields: {"text": dict(fields)}),
    f"{RESPONSES}: `text.format`": _request(lambda fields: {"text": {"format": {**FORMAT, **fields}}}),
    f"{RESPONSES}: `reasoning`": _request(lambda fields: {"reasoning": dict(fields)}),
}
_VALUES: Mapping[str, Fields] = {
    "": {
        "allowed_token_ids": [65],
        "background": True,
        "bad_words": ["x"],
        "chat_template_kwargs": {"enable_thinking": False},
        "include_reasoning": False,
        "logprob_token_ids": [65],
        "structured_outputs": {"regex": "a+"},
        "thinking_token_budget": 4,
        "include": ["message.output_text.logprobs"],
        "input": [USER],
        "instructions": "Be brief.",
        "max_output_tokens": 4,
        "max_tool_calls": 1,
        "metadata": {"turn": "1"},
        "parallel_tool_calls": False,
        "previous_response_id": "resp_1",
        "prompt_cache_key": "mine",
        "reasoning": {"effort": "low"},
        "safety_identifier": "me",
        "store": False,
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [WEATHER],
        "truncation": "disabled",
        "user": "me",
    },
    ": messages in `input`": {"id": "msg_1", "type": "message"},
    ": parts of `content` and `output`": {"refusal": "No.", "type": "input_text"},
    ": calls in `input`": {
        "arguments": "{}",
        "call_id": "call_1",
        "id": "fc_1",
        "name": "weather",
        "type": "function_call",
    },
    ": results of calls in `input`": {
        "call_id": "call_1",
        "id": "fco_1",
        "output": [{"type": "input_text", "text": "Sunny"}],
        "type": "function_call_output",
    },
    ": reasoning in `input`": {
        "content": [{"type": "reasoning_text", "text": "Hm"}],
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Hm"}],
        "type": "reasoning",
    },
    ": `tools`": {
        "description": "Weather of a city",
        "name": "weather",
        "parameters": PARAMETERS,
        "strict": True,
        "type": "function",
    },
    ": `tool_choice`": {"mode": "auto", "name": "weather", "tools": [WEATHER], "type": "function"},
    ": `text`": {"format": {"type": "text"}, "verbosity": "low"},
    ": `text.format`": {"name": "place", "schema": PARAMETERS, "strict": True, "type": "text"},
    ": `reasoning`": {"effort": "low", "summary": "auto"},
}
ALLOWED: Mapping[tuple[str, str], Any] = {
    (f"{RESPONSES}{section}", name): value for section, values in _VALUES.items() for name, value in values.items()
}
