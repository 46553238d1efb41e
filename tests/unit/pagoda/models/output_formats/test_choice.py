"""Tests of the choice of a model's output format."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pagoda.models.model import Model, ModelFormat
from pagoda.models.output_formats.choice import choose_output_format, find_format
from pagoda.models.output_formats.description import described_formats

FORMATS = described_formats()
HERMES = "<tool_call> </tool_call> arguments"


def test_a_template_without_marks_gets_the_form_that_the_gateway_describes(tiny_model: Model) -> None:
    for template in (None, "", "{{ messages }} {{ tools }}"):
        choice = choose_output_format(tiny_model, template, reads_tools=True)
        assert (choice.format, choice.source) == (FORMATS["fallback"], "fallback")
        assert not choice.template_has_tools
    assert FORMATS["fallback"].reasoning is None


def test_a_template_with_reasoning_only_gets_described_calls(tiny_model: Model) -> None:
    choice = choose_output_format(tiny_model, "<think> </think>", reads_tools=True)
    assert choice.format == replace(FORMATS["think"], calls=FORMATS["fallback"].calls)
    assert not choice.template_has_tools


def test_a_template_that_reads_no_tools_does_not_describe_them(tiny_model: Model) -> None:
    assert not choose_output_format(tiny_model, HERMES, reads_tools=False).template_has_tools
    assert choose_output_format(tiny_model, HERMES, reads_tools=True).template_has_tools


def test_reasoning_needs_a_marker_in_the_template_or_the_vocabulary(tiny_model: Model) -> None:
    assert choose_output_format(tiny_model, HERMES).format == replace(FORMATS["hermes"], reasoning=None)
    assert choose_output_format(tiny_model, HERMES + "</think>").format == FORMATS["hermes"]
    assert choose_output_format(tiny_model, HERMES, vocabulary={"<think>"}).format == FORMATS["hermes"]


def test_the_vocabulary_tells_where_the_template_does_not() -> None:
    tokens = {"<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>"}
    assert find_format("{{ messages }}", tokens) == FORMATS["gemma4"]
    assert find_format("{{ messages }}", tokens - {"<channel|>"}) is None
    assert find_format("List of tools: <|tool_list_start|>", ()) is None
    assert find_format("<|tool_list_start|>", {"<|tool_call_start|>", "<|tool_call_end|>"}) == FORMATS["lfm2"]


@pytest.fixture
def checkpoint(tiny_model: Model, tmp_path: Path) -> Model:
    return replace(tiny_model, path=tmp_path, format=ModelFormat.SAFETENSORS)


def test_the_checkpoints_own_description_has_precedence(checkpoint: Model) -> None:
    fields = {"thinking": {"open": "<mull>", "close": "</mull>"}, "content": {}}
    config = {"response_template": {"start_anchor": "x", "fields": fields}}
    (checkpoint.path / "tokenizer_config.json").write_text(json.dumps(config))
    choice = choose_output_format(checkpoint, HERMES, reads_tools=True)
    assert choice.source == "response_template"
    assert choice.format.reasoning is not None
    assert choice.format.reasoning.open == "<mull>"
    assert choice.format.calls == FORMATS["fallback"].calls


@pytest.mark.parametrize("described", [{"fields": {"other": {}}}, "text", 5])
def test_a_description_that_cannot_be_used_is_left_aside(checkpoint: Model, described: object) -> None:
    (checkpoint.path / "tokenizer_config.json").write_text(json.dumps({"response_template": described}))
    assert choose_output_format(checkpoint, HERMES).format.name == "hermes"
