"""Tests of the check of tools and of the choice among them."""

from typing import Any

import pytest

from gateway.chat.tool_definitions import MAX_TOOL_BYTES, MAX_TOOLS, read_tool_choice, read_tools
from gateway.errors import InvalidRequestError
from gateway.prompts.tools import ToolChoice, ToolMode

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: Any = "weather", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def test_templates_get_every_field_of_a_tool() -> None:
    (read,) = read_tools(
        [tool(parameters=SCHEMA, description="Weather", strict=True, **{"return": {"type": "string"}})]
    )
    assert read.name == "weather" and read.parameters == SCHEMA and read.strict
    assert read.given == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather",
            "parameters": SCHEMA,
            "return": {"type": "string"},
        },
    }


@pytest.mark.parametrize("parameters", [None, {}])
def test_a_tool_without_parameters_has_an_empty_object_for_templates(parameters: Any) -> None:
    (read,) = read_tools([tool(parameters=parameters)])
    assert read.parameters == {}
    assert read.given["function"] == {
        "name": "weather",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        (["weather"], "tools.0"),
        ([{"type": "web_search"}], "tools.0.type"),
        ([{"type": "function"}], "tools.0.function"),
        ([{"type": "function", "function": []}], "tools.0.function"),
        ([tool(None)], "tools.0.function.name"),
        ([tool("")], "tools.0.function.name"),
        ([tool("a b")], "tools.0.function.name"),
        ([tool("ä")], "tools.0.function.name"),
        ([tool("a\n")], "tools.0.function.name"),
        ([tool("a" * 129)], "tools.0.function.name"),
        ([tool(description=1)], "tools.0.function.description"),
        ([tool(), tool("b", parameters=[])], "tools.1.function.parameters"),
        ([tool(parameters={"type": "string"})], "tools.0.function.parameters.type"),
        ([tool(strict="yes")], "tools.0.function.strict"),
        ([tool(), tool()], "tools.1.function.name"),
        ([tool(str(number)) for number in range(MAX_TOOLS + 1)], "tools"),
        ([tool(description="x" * MAX_TOOL_BYTES)], "tools"),
        ([tool(parameters={"type": "object", "default": 2**70})], "tools"),
    ],
)
def test_a_wrong_tool_is_named(tools: list[Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        read_tools(tools)
    assert raised.value.param == field and raised.value.message.startswith(f"{field}: ")


TOOLS = read_tools([tool("a"), tool("b")])
NAMED = {"type": "function", "function": {"name": "b"}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool(name) for name in names]}}


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(mode=ToolMode.NONE)),
        ("required", ToolChoice(mode=ToolMode.REQUIRED)),
        (NAMED, ToolChoice(mode=ToolMode.REQUIRED, names=frozenset({"b"}), parallel=False)),
        (
            {"type": "function", "name": "a"},
            ToolChoice(mode=ToolMode.REQUIRED, names=frozenset({"a"}), parallel=False),
        ),
        (allowed("auto", "a"), ToolChoice(names=frozenset({"a"}))),
        (allowed("required", "a", "b"), ToolChoice(mode=ToolMode.REQUIRED, names=frozenset({"a", "b"}))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "b"}]},
            ToolChoice(names=frozenset({"b"})),
        ),
    ],
)
def test_each_form_of_a_choice_is_read(choice: Any, read: ToolChoice) -> None:
    assert read_tool_choice(choice, TOOLS) == read


def test_parallel_calls_can_be_refused() -> None:
    assert not read_tool_choice("required", TOOLS, parallel=False).parallel


@pytest.mark.parametrize(
    "choice",
    [
        "always",
        7,
        {"type": "function"},
        {"type": "function", "function": {"name": "c"}},
        allowed("auto", "c"),
        allowed("auto"),
        allowed("none", "a"),
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [1]}},
    ],
)
def test_a_wrong_choice_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"^tool_choice: "):
        read_tool_choice(choice, TOOLS)


@pytest.mark.parametrize("choice", ["required", NAMED, allowed("auto", "a")])
def test_a_choice_needs_tools(choice: Any) -> None:
    with pytest.raises(InvalidRequestError, match="without tools"):
        read_tool_choice(choice, ())


@pytest.mark.parametrize("choice", [None, "none", "auto"])
def test_no_choice_needs_no_tools(choice: Any) -> None:
    read_tool_choice(choice, ())
