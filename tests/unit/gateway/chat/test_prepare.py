"""Tests of the prompt of a chat: its tools, its reasoning, and the form of its answer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.answers.text_request import SamplingChoice, TextRequest
from gateway.chat.ask import ChatAsk
from gateway.chat.prepare import encode_chat, with_answer_form
from gateway.chat.tool_definitions import read_tools
from gateway.constraints.compiler import GrammarCompiler
from gateway.errors import InvalidRequestError
from gateway.models.served_model import ServedModel
from gateway.prompts.conversation import ChatEnding
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import ToolChoice, ToolMode
from pagoda.models.output_formats.choice import FormatChoice
from pagoda.models.output_formats.description import CallSyntax, ReasoningSyntax, Slot
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.wire.sampling import SamplingParams
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.conftest import load_model

USER = {"role": "user", "content": "Hi"}
TOOLS = read_tools([{"type": "function", "function": {"name": "now"}}])
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.id }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}{{ reasoning_effort }}"
)
TOOLLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CALLS = CallSyntax(call=("[", Slot.NAME, "]", Slot.ARGUMENTS), id_length=9)

Load = Callable[[str], ServedModel]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_with(template: str) -> ServedModel:
        model = load_model(write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=template), tmp_path)
        return ServedModel.load(model, SamplingPolicy())

    return load_with


def thinking(model: ServedModel, **fields: Any) -> ServedModel:
    output = replace(model.output.format, reasoning=ReasoningSyntax(open="<think>", close="</think>"), **fields)
    return replace(model, output=FormatChoice(format=output, template_has_tools=True, source="template"))


def ask(*messages: Any, **fields: Any) -> ChatAsk:
    return ChatAsk(messages=messages or (USER,), **fields)


async def test_a_template_that_reads_tools_gets_them(load: Load) -> None:
    prompt = await encode_chat(ask(tools=TOOLS), thinking(load(TEMPLATE)))
    assert prompt.text.startswith("now;<|im_start|>user")


async def test_tools_are_described_if_the_form_of_the_calls_is_not_known(load: Load) -> None:
    prompt = await encode_chat(ask(tools=TOOLS), load(TEMPLATE))
    assert prompt.text.startswith("<|im_start|>system\nYou can call functions.")


async def test_no_tools_are_offered_if_none_may_be_called(load: Load) -> None:
    prompt = await encode_chat(ask(tools=TOOLS, tool_choice=ToolChoice(mode=ToolMode.NONE)), load(TEMPLATE))
    assert prompt.text.startswith("<|im_start|>user")


async def test_a_template_without_tools_gets_them_as_text(load: Load) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    prompt = await encode_chat(ask(*messages, tools=TOOLS), load(TOOLLESS))
    assert prompt.text.startswith("system: You can call functions.")
    assert '{"name": "now", "arguments": {}}' in prompt.text and "user: <tool_response>\nnoon" in prompt.text
    assert prompt.format.calls is not None and Slot.OBJECT in prompt.format.calls.call


async def required(model: ServedModel, *, parallel: bool = True) -> str:
    """Return the grammar of an answer that has to call a tool."""
    grammars = GrammarCompiler()
    asked = ask(tools=TOOLS, tool_choice=ToolChoice(mode=ToolMode.REQUIRED, parallel=parallel))
    prompt = await encode_chat(asked, model)
    sampling = SamplingChoice(params=SamplingParams())
    free = TextRequest(prompt_token_ids=tuple(prompt.token_ids), prompt_field="messages", sampling=sampling)
    request = await with_answer_form(free, asked, prompt, model, grammars)
    grammars.close()
    assert request.sampling.params.constraint is not None
    return request.sampling.params.constraint.grammar


async def test_a_model_that_has_not_learnt_to_call_tools_makes_one_call(load: Load) -> None:
    assert await required(load(TOOLLESS)) == await required(load(TOOLLESS), parallel=False)
    calls = load(TOOLLESS).output.format.calls
    learnt = thinking(load(TEMPLATE), calls=calls)
    assert await required(learnt) != await required(learnt, parallel=False)


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TOOLLESS


async def test_a_template_without_system_messages_gets_the_tools_in_the_question(load: Load) -> None:
    model = load(NO_SYSTEM)
    assert (await encode_chat(ask(tools=TOOLS), model)).text.startswith("user: You can call functions.")
    with pytest.raises(InvalidRequestError, match="no system"):
        await encode_chat(ask({"role": "system", "content": "S"}, USER, tools=TOOLS), model)


async def test_ids_get_the_length_of_the_format(load: Load) -> None:
    model = thinking(load(TEMPLATE), calls=CALLS)
    call = {"id": "call_abc", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    prompt = await encode_chat(ask(USER, {"role": "assistant", "tool_calls": [call]}, tools=TOOLS), model)
    call_id = prompt.text.split("<|im_start|>assistant\n")[1].partition("<|im_end|>")[0]
    assert len(call_id) == 9 and call_id.isalnum()
    assert prompt.format.calls is CALLS


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, ReasoningStart.MAY_OPEN),
        ({"thinks": True}, ReasoningStart.MAY_OPEN),
        ({"thinks": False}, ReasoningStart.NONE),
        ({"effort": "none"}, ReasoningStart.NONE),
    ],
)
async def test_the_prompt_says_whether_the_model_reasons(load: Load, fields: Any, start: ReasoningStart) -> None:
    assert (await encode_chat(ask(**fields), thinking(load(TEMPLATE)))).reasoning is start


async def test_a_prompt_that_begins_the_reasoning(load: Load) -> None:
    model = thinking(load(TOOLLESS + "<think>\n"))
    assert (await encode_chat(ask(thinks=True), model)).reasoning is ReasoningStart.OPEN


async def test_an_answer_that_has_begun_has_no_reasoning(load: Load) -> None:
    messages = [USER, {"role": "assistant", "content": "Well"}]
    prompt = await encode_chat(ask(*messages, ending=ChatEnding.CONTINUED), thinking(load(TEMPLATE)))
    assert prompt.text.endswith("Well") and prompt.reasoning is ReasoningStart.NONE


async def test_a_model_of_unknown_format_does_not_reason(load: Load) -> None:
    model = load(TOOLLESS)
    assert (await encode_chat(ask(), model)).reasoning is ReasoningStart.NONE
    with pytest.raises(InvalidRequestError, match="does not support thinking"):
        await encode_chat(ask(thinks=True), model)


async def test_the_effort_and_the_clients_variables_reach_the_template(load: Load) -> None:
    model = load(TEMPLATE)
    assert (await encode_chat(ask(effort="minimal"), model)).text.endswith("low")
    assert (await encode_chat(ask(template_variables={"reasoning_effort": "own"}), model)).text.endswith("own")


async def test_documents_need_a_template_that_reads_them(load: Load) -> None:
    with pytest.raises(InvalidRequestError, match="does not read documents"):
        await encode_chat(ask(documents=[{"text": "a"}]), load(TEMPLATE))
    prompt = await encode_chat(ask(documents=[{"text": "a"}]), load("{% for d in documents %}{{ d.text }}{% endfor %}"))
    assert prompt.text == "a"
