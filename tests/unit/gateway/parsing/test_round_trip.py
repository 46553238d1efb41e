"""Tests of the proof of a format: what a template writes is read back, and a wrong format is found out."""

from dataclasses import replace

import pytest

from gateway.parsing.round_trip import TokenNames, prove_format
from gateway.prompts.chat_template import ChatTemplate
from pagoda.models.model import Model
from pagoda.models.output_formats.choice import choose_output_format
from pagoda.models.output_formats.description import described_formats
from pagoda.text.tokenizer import Tokenizer
from tests.templates.tool_calls import TOOL_TEMPLATES

FORMATS = described_formats()


def template_of(source: str, tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(source, {}, tokenizer)


@pytest.mark.parametrize("name", TOOL_TEMPLATES)
def test_a_call_of_the_template_is_read_back(name: str, tiny_tokenizer: Tokenizer) -> None:
    template = template_of(TOOL_TEMPLATES[name], tiny_tokenizer)
    assert prove_format(FORMATS[name], template, tiny_tokenizer) == ""


def test_each_format_that_a_template_shows_has_a_template_here() -> None:
    shown = {name for name, each in FORMATS.items() if each.calls and any(marks.template_has for marks in each.marks)}
    assert shown == set(TOOL_TEMPLATES)


def test_a_wrong_format_is_found_out(tiny_tokenizer: Tokenizer) -> None:
    template = template_of(TOOL_TEMPLATES["qwen-xml"], tiny_tokenizer)
    assert "writes a call as" in prove_format(FORMATS["hermes"], template, tiny_tokenizer)


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        ("", "leaves calls of earlier turns out"),
        ("{{ raise_exception('no tools') }}", "accepts no tool call: "),
        ("<tool_call>{{ message.tool_calls[0].function.name }}</tool_call>", "of which [] with '' is read"),
    ],
)
def test_the_reason_is_told(calls: str, problem: str, tiny_tokenizer: Tokenizer) -> None:
    source = (
        "{% for message in messages %}{{ message.content }}{% if message.tool_calls %}"
        + calls
        + "{% endif %}{% endfor %}"
    )
    template = template_of(source + "{{ tools }}", tiny_tokenizer)
    assert problem in prove_format(FORMATS["hermes"], template, tiny_tokenizer)


def test_a_marker_that_the_prompt_shares_with_the_call_does_not_hide_the_call(tiny_tokenizer: Tokenizer) -> None:
    source = TOOL_TEMPLATES["gemma4"] + "{% if add_generation_prompt %}<|channel>{% endif %}"
    source = source.replace("<|assistant|>{% endif %}", "{% endif %}").replace("<|{{ message.role }}|>", "")
    assert prove_format(FORMATS["gemma4"], template_of(source, tiny_tokenizer), tiny_tokenizer) == ""


def test_the_names_of_tokens(tiny_tokenizer: Tokenizer) -> None:
    names = TokenNames(tiny_tokenizer)
    assert "<|im_end|>" in names
    assert "a" in names
    assert "<|tool_call>" not in names


@pytest.mark.parametrize("name", TOOL_TEMPLATES)
def test_the_template_chooses_the_format(name: str, tiny_tokenizer: Tokenizer, tiny_model: Model) -> None:
    choice = choose_output_format(
        tiny_model, TOOL_TEMPLATES[name], reads_tools=True, vocabulary=TokenNames(tiny_tokenizer)
    )
    known = replace(FORMATS[name], reasoning=choice.format.reasoning)
    assert choice == replace(choice, format=known, source="template", template_has_tools=True)
