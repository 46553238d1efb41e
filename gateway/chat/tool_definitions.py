"""The check of the tools that a client offers, and of its choice among them. Both are in OpenAI's form."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from gateway.errors import InvalidRequestError
from gateway.http.schema import shown
from gateway.prompts.tools import Tool, ToolChoice, ToolMode

MAX_TOOLS = 1024
MAX_TOOL_BYTES = 1 << 20
"""Maximum size of all tools together, as JSON."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_ANY_OBJECT: Mapping[str, Any] = {"type": "object", "properties": {}}


def read_tools(tools: Sequence[Any], field: str = "tools") -> tuple[Tool, ...]:
    """Return the tools. Raises InvalidRequestError that names the tool and what is wrong."""
    read = tuple(_read_tool(tool, f"{field}.{index}") for index, tool in enumerate(tools))
    check_together(read, field, "function.name")
    return read


def read_functions(functions: Sequence[Any], field: str = "functions") -> tuple[Tool, ...]:
    """Return the tools of the older form, which is the function alone. Raises InvalidRequestError."""
    read = tuple(_read_function(each, f"{field}.{index}") for index, each in enumerate(functions))
    check_together(read, field)
    return read


def check_together(tools: Sequence[Tool], field: str, name_field: str = "name") -> None:
    """Raise InvalidRequestError if two tools have the same name, or if the tools are too many or too large together."""
    if len(tools) > MAX_TOOLS:
        raise _invalid(field, f"must have at most {MAX_TOOLS} items (got {len(tools)})")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            place = f"{field}.{index}.{name_field}"
            raise _invalid(place, f"each tool needs a name of its own (got {tool.name!r} again)")
        seen.add(tool.name)
    if (size := _size([tool.given for tool in tools], field)) > MAX_TOOL_BYTES:
        raise _invalid(field, f"may have at most {MAX_TOOL_BYTES} bytes of JSON together (got {size})")


def make_tool(
    name: Any,
    description: Any,
    parameters: Any,
    strict: Any = None,
    *,
    field: str,
    schema_name: str = "parameters",
    further: Mapping[str, Any] | None = None,
) -> Tool:
    """Return the tool of these values, which may have any type.

    `field` is the place of the tool, and `schema_name` the API's name of `parameters`, for errors.
    """
    schema_field = f"{field}.{schema_name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(
            f"{field}.name", f"must have 1 to 128 letters of ASCII, digits, `_`, `-` or `.` (got {shown(name)})"
        )
    if not isinstance(description, str | None):
        raise _invalid(f"{field}.description", f"must be a string (got {shown(description)})")
    if not isinstance(parameters, Mapping | None):
        raise _invalid(schema_field, f"must be a JSON Schema of an object (got {shown(parameters)})")
    if parameters and not _allows_object(parameters.get("type")):
        raise _invalid(f"{schema_field}.type", f"must be 'object' (got {shown(parameters['type'])})")
    if not isinstance(strict, bool | None):
        raise _invalid(f"{field}.strict", f"must be true or false (got {shown(strict)})")
    # Templates read all three without asking whether they are there.
    function = {"name": name, "description": description or "", "parameters": parameters or _ANY_OBJECT}
    return Tool(
        name=name,
        description=description or "",
        parameters=parameters or {},
        strict=bool(strict),
        schema_field=schema_field,
        given={"type": "function", "function": function | dict(further or {})},
    )


def read_tool_choice(
    choice: Any, tools: Sequence[Tool], *, parallel: bool | None = None, field: str = "tool_choice"
) -> ToolChoice:
    """Return the choice: `none`, `auto`, `required`, one tool, or a list of allowed tools. None is the same as `auto`."""
    is_parallel = parallel is not False
    match choice:
        case None | "auto":
            return ToolChoice(parallel=is_parallel)
        case "none":
            return ToolChoice(mode=ToolMode.NONE)
    if not tools:
        raise _invalid(field, f"only 'none' and 'auto' are possible without tools (got {shown(choice)})")
    match choice:
        case "required" | "any":
            return ToolChoice(mode=ToolMode.REQUIRED, parallel=is_parallel)
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            # A choice of one tool is one call, in OpenAI's API too.
            return ToolChoice(mode=ToolMode.REQUIRED, names=_known([name], tools, field), parallel=False)
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(allowed)}} | {
            "type": "allowed_tools",
            "mode": mode,
            "tools": list(allowed),
        } if mode in ("auto", "required"):
            names = _known([_allowed_name(each, field) for each in allowed], tools, field)
            if not names:
                raise _invalid(field, "must allow at least one tool")
            return ToolChoice(mode=ToolMode(mode), names=names, parallel=is_parallel)
    raise _invalid(
        field,
        'must be \'none\', \'auto\', \'required\', {"type": "function", "function": {"name": ...}} or '
        f"{{\"type\": \"allowed_tools\", ...}} with the mode 'auto' or 'required' (got {shown(choice)})",
    )


def _read_tool(tool: Any, field: str) -> Tool:
    if not isinstance(tool, Mapping):
        raise _invalid(field, f"must be an object (got {shown(tool)})")
    if (kind := tool.get("type", "function")) != "function":
        raise _invalid(f"{field}.type", f"only 'function' is supported (got {shown(kind)})")
    return _read_function(tool.get("function"), f"{field}.function")


def _read_function(function: Any, field: str) -> Tool:
    if not isinstance(function, Mapping):
        raise _invalid(field, "required" if function is None else f"must be an object (got {shown(function)})")
    known = ("name", "description", "parameters", "strict")
    return make_tool(
        *(function.get(each) for each in known),
        field=field,
        further={key: value for key, value in function.items() if key not in known},
    )


def _allows_object(kind: Any) -> bool:
    return kind in (None, "object") or (isinstance(kind, list) and "object" in kind)


def _allowed_name(tool: Any, field: str) -> str:
    match tool:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    raise _invalid(field, f"an allowed tool must be named (got {shown(tool)})")


def _known(names: Iterable[str], tools: Sequence[Tool], field: str) -> frozenset[str]:
    offered = [tool.name for tool in tools]
    for name in names:
        if name not in offered:
            raise _invalid(field, f"no tool is named {shown(name)} (tools: {shown(', '.join(offered))})")
    return frozenset(names)


def _size(tools: Sequence[Mapping[str, Any]], field: str) -> int:
    try:
        return len(orjson.dumps(tools))
    except TypeError:  # too deep for orjson, or a number beyond 64 bits
        raise _invalid(field, "nested too deeply, or with numbers of more than 64 bits") from None


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {message}", param=field)
