"""Tests of what the end of a prompt says about reasoning."""

import pytest

from gateway.prompts.reasoning_start import ReasoningStart, find_reasoning_start
from pagoda.models.output_formats.description import ReasoningSyntax

THINK = ReasoningSyntax(open="<think>", close="</think>")
OPEN, MAY_OPEN, NONE = ReasoningStart.OPEN, ReasoningStart.MAY_OPEN, ReasoningStart.NONE


@pytest.mark.parametrize(
    ("prompt", "is_off", "continued", "expected"),
    [
        ("<|assistant|>\n", False, "", MAY_OPEN),
        ("<|assistant|>\n", True, "", NONE),
        ("<|assistant|>\n<think>\n", False, "", OPEN),
        ("<|assistant|>\n<think>\n", True, "", OPEN),
        ("<|assistant|>\n<think>\n\n</think>\n\n", False, "", NONE),
        ("<|assistant|></think>", True, "", NONE),
        ("Say <think> and </think><|assistant|>", False, "", MAY_OPEN),
        ("<|assistant|>The answer", False, "The answer", NONE),
        ("<|assistant|><think>hm", False, "<think>hm", OPEN),
        ("<|assistant|><think>hm</think>4", False, "<think>hm</think>4", NONE),
        ("<|assistant|><think>\n\n</think>\n\n", False, " ", NONE),
        ("<|assistant|>", False, "", MAY_OPEN),
    ],
)
def test_the_end_of_the_prompt_decides(prompt: str, is_off: bool, continued: str, expected: ReasoningStart) -> None:
    assert find_reasoning_start(prompt, THINK, is_off=is_off, continued=continued) is expected


def test_a_format_without_reasoning_has_none() -> None:
    assert find_reasoning_start("<think>", None, is_off=False, continued="") is NONE
