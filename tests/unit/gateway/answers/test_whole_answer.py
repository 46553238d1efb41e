"""Tests of the answer that the parts of a stream make."""

from gateway.answers.whole_answer import WholeAnswer, WholeCall
from gateway.parsing.parts import CallArguments, CallBegan, ContentPart, ReasoningPart


def test_parts_make_an_answer() -> None:
    answer = WholeAnswer()
    answer.add_parts([ReasoningPart("h"), ReasoningPart("m"), ContentPart("Wait"), CallBegan(0, "a", "now")])
    answer.add_parts([CallArguments(0, "{"), CallArguments(0, "}"), CallBegan(1, "b", "f"), ContentPart(".")])
    answer.add_parts([CallArguments(1, '{"x": 1}')])
    assert (answer.text, answer.reasoning) == ("Wait.", "hm")
    assert answer.calls == [WholeCall("a", "now", "{}"), WholeCall("b", "f", '{"x": 1}')]


def test_an_answer_without_parts_is_empty() -> None:
    answer = WholeAnswer()
    assert (answer.text, answer.reasoning, answer.calls) == ("", "", [])
