"""Tests of the output of a response: its events tell exactly what its items have, for any sequence of parts."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.answers.text_events import TextDelta
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart
from gateway.responses.output_items import Output

RESPONSE = "resp_" + "0" * 32
TEXTS = st.text(min_size=1, max_size=5)


@st.composite
def parts_of_answers(draw: st.DrawFn) -> list[AnswerPart]:
    parts: list[AnswerPart] = []
    num_calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "call"]), max_size=6)):
        texts = draw(st.lists(TEXTS, min_size=1, max_size=3))
        match kind:
            case "text":
                parts += map(ContentPart, texts)
            case "reasoning":
                parts += map(ReasoningPart, texts)
            case _:
                parts.append(CallBegan(num_calls, f"call_{num_calls}", "f"))
                parts += [CallArguments(num_calls, text) for text in texts]
                num_calls += 1
    return parts


def deltas_of(parts: list[AnswerPart], sizes: list[int]) -> list[TextDelta]:
    """Return the parts in deltas of these sizes, and the rest in one."""
    deltas, rest = [], parts
    for size in [*sizes, len(parts)]:
        taken, rest = rest[:size], rest[size:]
        if taken:
            deltas.append(TextDelta(index=0, text="", logprobs=(), token_ids=(), num_tokens=1, parts=tuple(taken)))
    return deltas


def text_of(item: dict[str, Any]) -> str:
    return str(item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])


@given(parts_of_answers(), st.lists(st.integers(1, 4)), st.booleans())
def test_events_and_items_have_every_part(parts: list[AnswerPart], sizes: list[int], is_cut: bool) -> None:
    output = Output(RESPONSE)
    events = [event for delta in deltas_of(parts, sizes) for event in output.add_delta(delta)]
    events += output.finish(is_cut=is_cut)
    items = output.as_json()
    # Parts of the same kind that follow each other are one item.
    assert "".join(text_of(item) for item in items) == "".join(
        part.text for part in parts if not isinstance(part, CallBegan)
    )
    assert [item["call_id"] for item in items if item["type"] == "function_call"] == [
        part.id for part in parts if isinstance(part, CallBegan)
    ]
    assert [event["output_index"] for event in events] == sorted(event["output_index"] for event in events)
    for index, item in enumerate(items):
        told = [event for event in events if event["output_index"] == index]
        assert told[0]["type"] == "response.output_item.added" and told[0]["item"]["id"] == item["id"]
        assert told[-1] == {"type": "response.output_item.done", "output_index": index, "item": item}
        assert "".join(event["delta"] for event in told if "delta" in event) == text_of(item)
        done = next(
            event for event in told if event["type"].endswith((".output_text.done", "_text.done", "arguments.done"))
        )
        assert done.get("text", done.get("arguments")) == text_of(item)
        assert item["status"] == ("incomplete" if is_cut and index == len(items) - 1 else "completed")
    assert items, "an empty answer is an empty message"
    assert len({item["id"] for item in items}) == len(items)


def test_hidden_reasoning_leaves_no_trace() -> None:
    output = Output(RESPONSE, hides_reasoning=True)
    [delta] = deltas_of([ReasoningPart("Hm."), ContentPart("Yes.")], [])
    events = [*output.add_delta(delta), *output.finish(is_cut=False)]
    assert not any("reasoning" in event["type"] for event in events)
    assert [item["type"] for item in output.as_json()] == ["message"]


def test_an_abandoned_output_shows_its_last_item_as_incomplete() -> None:
    output = Output(RESPONSE)
    [delta] = deltas_of([ReasoningPart("Hm."), ContentPart("Yes.")], [])
    list(output.add_delta(delta))
    output.abandon()
    assert [item["status"] for item in output.as_json()] == ["completed", "incomplete"]
