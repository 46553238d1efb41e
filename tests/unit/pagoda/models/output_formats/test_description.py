"""Tests of the description files: each is complete, and nothing in it is left unread."""

import tomllib
from importlib import resources

import pytest

from pagoda.models.output_formats.description import CallSyntax, OutputFormat, Slot, described_formats, read_format

FILES = resources.files("pagoda.models.output_formats") / "formats"

ALSO = {
    "lfm2-json",
    "qwen-function",
    "kimi-k2-plain",
    "mistral-plain",
    "granite3-object",
    "harmony-json",
    "harmony-plain",
    "harmony-role",
}
"""Formats that only others name."""


@pytest.mark.parametrize("output_format", described_formats().values(), ids=lambda each: each.name)
def test_a_call_has_a_name_and_arguments_once(output_format: OutputFormat) -> None:
    if (calls := output_format.calls) is None:
        return
    slots = [piece for piece in calls.call if isinstance(piece, Slot)]
    assert len(slots) == len(set(slots))
    assert Slot.OBJECT in slots or slots[0] is Slot.NAME
    arguments = {Slot.OBJECT, Slot.ARGUMENTS, Slot.PARAMETERS, Slot.PYTHON_ARGUMENTS, Slot.BRACED}
    assert len(arguments.intersection(slots)) == 1
    assert {Slot.KEY, Slot.VALUE} <= set(calls.parameter) if Slot.PARAMETERS in slots else not calls.parameter
    assert bool(calls.quote) == (Slot.BRACED in slots)


@pytest.mark.parametrize("output_format", described_formats().values(), ids=lambda each: each.name)
def test_a_call_is_recognized_by_a_marker_unless_it_is_bare(output_format: OutputFormat) -> None:
    calls = output_format.calls
    assert calls is None or bool(calls.trigger) != calls.bare


@pytest.mark.parametrize("name", described_formats())
def test_a_file_has_only_known_keys(name: str) -> None:
    described = tomllib.loads((FILES / f"{name}.toml").read_text(encoding="utf-8"))
    assert set(described) <= {"choose", "reasoning", "calls", "answer_markers", "also"}
    assert all("template_has" in marks or "vocabulary_has" in marks for marks in described.get("choose", ()))
    assert "choose" in described or name in {"fallback", *ALSO}


def test_other_ways_to_write_calls_come_from_other_files() -> None:
    formats = described_formats()
    assert formats["lfm2"].other_calls == (formats["lfm2-json"].calls,)
    assert formats["hermes"].other_calls == ()


def test_the_trigger_is_the_first_text_without_whitespace() -> None:
    assert CallSyntax(call=("<call>\n", Slot.OBJECT)).trigger == "<call>"
    assert CallSyntax(begin=("[CALLS]", "["), call=(Slot.OBJECT,)).trigger == "[CALLS]"
    assert CallSyntax(begin=("[",), call=(Slot.NAME,), bare=True).trigger == ""


def test_an_unknown_key_of_calls_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown"):
        read_format("x", {"calls": {"call": ["{object}"], "unknown": 1}})
