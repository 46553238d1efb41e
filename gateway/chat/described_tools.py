"""Tools in plain messages, for chat templates that know none: described in the system message, called and answered in text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import CallSyntax, Piece, Slot

_RESULT = "<tool_response>\n{}\n</tool_response>"


def in_plain_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], syntax: CallSyntax, *, may_add_system: bool = True
) -> list[Mapping[str, Any]]:
    """Return messages of text only, of the roles `system`, `user` and `assistant`.

    Calls are written as `syntax` says, so the model sees earlier calls in the form in which it has to write the next ones. If
    there is no system message and none may be added, the first message describes the tools.
    """
    plain: list[Mapping[str, Any]] = []
    was_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            text = _RESULT.format(message["content"])
            # Results that follow each other are one message, because some templates demand that roles alternate.
            before = f"{plain.pop()['content']}\n" if was_result else ""
            plain.append({"role": "user", "content": before + text})
        else:
            plain.append(_with_calls_as_text(message, syntax))
        was_result = is_result
    return _with_description(plain, _description(tools, syntax), may_add_system) if tools else plain


def write_calls(calls: Sequence[tuple[str, Any]], syntax: CallSyntax) -> str:
    """Return the text of calls, each of them a name with its arguments."""
    written = ("".join(_written(piece, name, arguments, syntax) for piece in syntax.call) for name, arguments in calls)
    return "".join((*syntax.begin, syntax.separator.join(written), *syntax.end))


def _written(piece: Piece, name: str, arguments: Any, syntax: CallSyntax) -> str:
    match piece:
        case Slot.OBJECT:
            return _json({syntax.name_key: name, syntax.arguments_key: arguments})
        case Slot.NAME:
            return name
        case Slot.ARGUMENTS:
            return _json(arguments)
        case Slot():
            raise ValueError(f"calls with the slot {piece} can only be written by a chat template")
    return piece


def _with_calls_as_text(message: Mapping[str, Any], syntax: CallSyntax) -> Mapping[str, Any]:
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    calls = write_calls([(each["name"], each["arguments"]) for each in functions], syntax)
    content = message["content"]
    others = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**others, "content": f"{content}\n{calls}" if content else calls}


def _with_description(
    messages: list[Mapping[str, Any]], description: str, may_add_system: bool
) -> list[Mapping[str, Any]]:
    if not messages or (messages[0]["role"] != "system" and may_add_system):
        return [{"role": "system", "content": description}, *messages]
    first, *others = messages
    texts = (first["content"], description)
    return [{**first, "content": "\n\n".join(texts if first["role"] == "system" else reversed(texts))}, *others]


def _description(tools: Sequence[Tool], syntax: CallSyntax) -> str:
    listed = "\n".join(_json(tool.given["function"]) for tool in tools)
    example = write_calls([("function name", {"parameter name": "value"})], syntax)
    return (
        "You can call functions. These are available, one in each line, with the JSON Schema of their parameters:\n"
        f"<tools>\n{listed}\n</tools>\n"
        f"A call has this form, and ends your message:\n{example}\n"
        f"You then receive its result in this form:\n{_RESULT.format('result')}"
    )


def _json(value: Any) -> str:
    """Return JSON with spaces, as models write it, so that the tokens of an answer are found in the prefix cache."""
    return json.dumps(value, ensure_ascii=False)
