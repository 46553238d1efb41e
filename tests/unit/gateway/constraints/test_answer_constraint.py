"""Tests of the constraint of an answer: what is kept for the next turn of an agent, and what makes it again."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from gateway.chat.tool_definitions import read_tools
from gateway.constraints import answer_constraint as module
from gateway.constraints.answer_constraint import answer_constraint
from gateway.constraints.answer_form import AnswerForm
from gateway.constraints.choice_rule import choice_rule
from gateway.constraints.compiler import GrammarCompiler
from gateway.constraints.compose import compose_constraint
from gateway.constraints.kept_constraints import KeptConstraints
from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.models.served_model import ServedModel
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice, ToolMode
from pagoda.models.output_formats.description import described_formats
from pagoda.wire.constraint import Constraint
from tests.fakes.byte_tokenizer import ByteTokenizer

MODEL = cast(ServedModel, SimpleNamespace(tokenizer=ByteTokenizer(["<think>", "</think>"]), name="m"))
OTHER_MODEL = cast(ServedModel, SimpleNamespace(tokenizer=ByteTokenizer(["<tool_call>"]), name="n"))
REQUIRED = ToolChoice(mode=ToolMode.REQUIRED)


def tools(*names: str, strict: bool = False, **properties: Any) -> tuple[Tool, ...]:
    parameters = {"type": "object", "properties": properties}
    given = [{"name": name, "strict": strict, "parameters": parameters} for name in names]
    return read_tools([{"type": "function", "function": each} for each in given])


@pytest.fixture
async def grammars() -> AsyncIterator[GrammarCompiler]:
    compiler = GrammarCompiler()
    yield compiler
    compiler.close()


async def constraint_of(grammars: GrammarCompiler, model: ServedModel = MODEL, **changed: Any) -> Constraint | None:
    output_format = described_formats()[changed.pop("format", "hermes")]
    return await answer_constraint(
        grammars, model, AnswerForm(output_format=output_format, **{"tools": tools("f")} | changed)
    )


async def test_the_same_ask_is_composed_once(grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = Mock(side_effect=compose_constraint)
    monkeypatch.setattr(module, "compose_constraint", compose)
    many = [f"f{index}" for index in range(30)]
    first = await constraint_of(grammars, tools=tools(*many))
    assert first is not None
    assert await constraint_of(grammars, tools=tools(*many)) is first
    assert compose.call_count == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"format": "qwen-xml"},
        {"model": OTHER_MODEL},
        {"reasoning": ReasoningStart.OPEN},
        {"text": choice_rule(["yes"], "f")},
        {"tools": tools("f", x={"type": "string"})},
        {"tools": tools("f", "g")},
        {"choice": REQUIRED},
        {"choice": ToolChoice(parallel=False)},
        {"reasoning": ReasoningStart.OPEN, "thinking_budget": 5},
    ],
    ids=["format", "model", "reasoning", "text", "schema", "tools", "choice", "parallel", "budget"],
)
async def test_another_ask_has_its_own_constraint(grammars: GrammarCompiler, changed: dict[str, Any]) -> None:
    before = await constraint_of(grammars)
    made = await constraint_of(grammars, **changed)
    assert made is not None and made != before
    grammars.kept = KeptConstraints()
    assert made == await constraint_of(grammars, **changed)


async def test_properties_in_another_order_are_another_ask(grammars: GrammarCompiler) -> None:
    one = await constraint_of(grammars, tools=tools("f", a={"type": "string"}, b={"type": "integer"}))
    assert await constraint_of(grammars, tools=tools("f", b={"type": "integer"}, a={"type": "string"})) != one


async def test_an_ask_in_error_is_one_each_time(grammars: GrammarCompiler) -> None:
    wrong = {"type": "array", "uniqueItems": True}
    await constraint_of(grammars, tools=tools("f", a=wrong))
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="uniqueItems"):
            await constraint_of(grammars, tools=tools("f", a=wrong, strict=True))


def test_constraints_that_were_used_last_are_kept() -> None:
    kept, tokenizer = KeptConstraints(max_characters=5000), MODEL.tokenizer
    constraints = [Constraint(grammar=str(index) * 500) for index in range(4)]
    for origin in range(3):
        kept.keep(tokenizer, origin, constraints[origin])
    assert kept.find(tokenizer, 0) is constraints[0]
    kept.keep(tokenizer, 3, constraints[3])
    assert [kept.find(tokenizer, origin) for origin in range(4)] == [constraints[0], None, *constraints[2:]]
    kept.keep(tokenizer, 4, Constraint(grammar="x" * 5000))
    assert kept.find(tokenizer, 4) is None


async def test_the_time_to_check_tools_is_limited(grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOOLS_S", 0.0)
    with pytest.raises(GatewayError, match="tools: their schemas could not be checked within 0 s") as raised:
        await constraint_of(grammars, tools=tools("f", "g"))
    assert raised.value.kind is ErrorKind.OVERLOADED
