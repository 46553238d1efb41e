"""Tests of the blocks and events of Anthropic's replies: a stream, put together by the official client, is the whole reply."""

import json
from collections.abc import Sequence
from typing import Any

import anthropic.types
import hypothesis.strategies as st
import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given
from pydantic import TypeAdapter

from gateway.answers.text_events import SampleBegan, SampleEnded, TextDelta, TextEvents
from gateway.anthropic.replies import Reply
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart
from pagoda.wire.finished import FinishReason, Timings, Usage

EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)


async def text_events(
    parts: Sequence[AnswerPart], reason: FinishReason = FinishReason.STOP, stop_reason: str | int | None = None
) -> TextEvents:
    yield SampleBegan(index=0, num_cached_tokens=16)
    for part in parts:
        text = part.text if isinstance(part, ContentPart) else ""
        yield TextDelta(index=0, text=text, logprobs=(), token_ids=(), num_tokens=0, parts=(part,))
    yield SampleEnded(
        index=0,
        reason=reason,
        stop_reason=stop_reason,
        usage=Usage(num_prompt_tokens=40, num_cached_tokens=32, num_output_tokens=7),
        timings=Timings(queue_s=0, prefill_s=0, decode_s=0, num_preemptions=0),
        token_ids=(),
        num_calls=sum(isinstance(part, CallBegan) for part in parts),
        num_reasoning_tokens=3 if any(isinstance(part, ReasoningPart) for part in parts) else 0,
    )


async def whole(*parts: AnswerPart, hides_thinking: bool = False, **end: Any) -> dict[str, Any]:
    reply = Reply("m", num_prompt_tokens=40, hides_thinking=hides_thinking)
    body: dict[str, Any] = orjson.loads(await reply.encode_whole(text_events(parts, **end)))
    del body["id"]
    return body


async def streamed(*parts: AnswerPart, **end: Any) -> list[dict[str, Any]]:
    reply = Reply("m", num_prompt_tokens=40)
    return [orjson.loads(orjson.dumps(event)) async for event in reply.stream_events(text_events(parts, **end))]


def put_together(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that Anthropic's client makes of a stream."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            parsed = EVENT.validate_python(event)
            message = accumulate_event(event=parsed, current_snapshot=message, json_bufs=buffers)
    body: dict[str, Any] = message.to_dict()
    del body["stop_details"]  # the client adds it to each message
    del body["id"]
    return body


def calls() -> st.SearchStrategy[list[tuple[str, dict[str, Any]]]]:
    values = st.one_of(st.text(), st.integers(-(2**31), 2**31), st.booleans(), st.none(), st.lists(st.text()))
    return st.lists(st.tuples(st.sampled_from(["weather", "time"]), st.dictionaries(st.text(), values)), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> list[AnswerPart]:
    """Draw an answer: reasoning, texts and calls, in pieces."""
    pieces = st.lists(st.text(min_size=1), max_size=4)
    parts: list[AnswerPart] = [ReasoningPart(text) for text in draw(pieces)]
    for index, (name, arguments) in enumerate(draw(calls())):
        parts += [ContentPart(text) for text in draw(pieces)]
        parts.append(CallBegan(index, f"call_{index}", name))
        encoded = orjson.dumps(arguments).decode()
        cut = draw(st.integers(0, len(encoded)))
        parts += [CallArguments(index, text) for text in (encoded[:cut], encoded[cut:]) if text]
    parts += [ContentPart(text) for text in draw(pieces)]
    return parts


@given(answers())
async def test_a_stream_is_the_whole_reply(parts: list[AnswerPart]) -> None:
    events, body = await streamed(*parts), await whole(*parts)
    assert put_together(events) == body
    contents = {"text": "text", "thinking": "thinking"}
    told = ["".join(b[contents[b["type"]]] for b in body["content"] if b["type"] == kind) for kind in contents]
    assert told[0] == "".join(part.text for part in parts if isinstance(part, ContentPart))
    assert told[1] == "".join(part.text for part in parts if isinstance(part, ReasoningPart))


@given(answers())
async def test_each_block_is_whole_before_the_next(parts: list[AnswerPart]) -> None:
    events = await streamed(*parts)
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    open_block, num_blocks = None, 0
    for event in events[2:-2]:
        match event["type"]:
            case "content_block_start":
                assert open_block is None and event["index"] == num_blocks
                open_block, num_blocks = event["index"], num_blocks + 1
            case "content_block_delta":
                assert event["index"] == open_block
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
    assert open_block is None


async def test_thinking_and_a_call() -> None:
    parts = (
        ReasoningPart("Hm"),
        ContentPart("I look."),
        CallBegan(0, "call_abc", "weather"),
        CallArguments(0, '{"city":"Lima"}'),
    )
    body = await whole(*parts)
    assert body["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_abc", "name": "weather", "input": {"city": "Lima"}},
    ]
    assert body["stop_reason"] == "tool_use"
    assert body["usage"] == {
        "input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 32,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }
    kinds = [event["delta"]["type"] for event in await streamed(*parts) if event["type"] == "content_block_delta"]
    assert kinds == ["thinking_delta", "signature_delta", "text_delta", "input_json_delta"]


async def test_hidden_thinking_is_a_block_without_text() -> None:
    body = await whole(ReasoningPart("Hm"), ContentPart("Hi"), hides_thinking=True)
    assert body["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("{", {}),
        ('{"city":"Li', {}),
        ('{"city":"Lima","day', {"city": "Lima"}),
        ('{"days":[1,2', {"days": [1, 2]}),
        ("no JSON", {}),
        ("[1]", {}),
    ],
)
async def test_a_call_that_the_limit_cut_has_the_arguments_so_far(text: str, arguments: dict[str, Any]) -> None:
    parts: list[AnswerPart] = [CallBegan(0, "call_1", "weather"), *([CallArguments(0, text)] if text else [])]
    body = await whole(*parts, reason=FinishReason.LENGTH)
    assert body["content"][0]["input"] == arguments and body["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("reason", "stop_reason", "expected"),
    [
        (FinishReason.STOP, None, ("end_turn", None)),
        (FinishReason.STOP, 258, ("end_turn", None)),
        (FinishReason.STOP, "END", ("stop_sequence", "END")),
        (FinishReason.LENGTH, None, ("max_tokens", None)),
    ],
)
async def test_the_reason_of_the_end(reason: FinishReason, stop_reason: Any, expected: tuple[str, str | None]) -> None:
    body = await whole(ContentPart("Hi"), reason=reason, stop_reason=stop_reason)
    assert (body["stop_reason"], body["stop_sequence"]) == expected


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        (r'{"text": "\ud800"}', {"text": "\ud800"}),
        ('{"n": 123456789012345678901234567890, "m', {"n": 123456789012345678901234567890}),
        ('{"n": 1e999, "m', {"n": None}),
    ],
)
async def test_arguments_may_have_any_number_and_escape_of_json(text: str, arguments: dict[str, Any]) -> None:
    parts: list[AnswerPart] = [CallBegan(0, "call_0", "count"), CallArguments(0, text)]
    body = json.loads(await Reply("m", num_prompt_tokens=40).encode_whole(text_events(parts)))
    assert body["content"][0]["input"] == arguments
