"""Tests of one open request: order, ends, overflow, and the request that resumes it."""

import pytest

from gateway.errors import ErrorKind, GatewayError, unavailable
from gateway.upstream.open_request import OpenRequest
from gateway.upstream.placement import MAX_BUFFERED_EVENTS
from pagoda.wire.events import Event, Moved, PromptLogprobs, Started, Tokens
from pagoda.wire.finished import Finished, FinishReason, Timings, Usage
from pagoda.wire.inference_request import InferenceRequest, ResumedSample
from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.sampling import SamplingParams


class FakePlace:
    def __init__(self) -> None:
        self.sent: list[tuple[object, ...]] = []
        self.forgotten: list[str] = []

    def send_finish(self, request_id: str, sample_index: int, num_tokens: int) -> None:
        self.sent.append(("finish", request_id, sample_index, num_tokens))

    def send_cancel(self, request_id: str) -> None:
        self.sent.append(("cancel", request_id))

    def forget_request(self, request_id: str) -> None:
        self.forgotten.append(request_id)


class Case:
    def __init__(self, *, num_samples: int = 1, max_buffered_events: int = 8) -> None:
        self.place = FakePlace()
        request = InferenceRequest(
            request_id="r", model="m", prompt_token_ids=(1,), sampling=SamplingParams(), num_samples=num_samples
        )
        self.opened = OpenRequest(request, max_buffered_events=max_buffered_events)
        self.opened.begin_at_place(self.place)


def tokens(sequence_number: int, *token_ids: int, sample_index: int = 0) -> Tokens:
    return Tokens("r", sample_index, token_ids, logprobs=(), sequence_number=sequence_number)


def finished(sample_index: int = 0) -> Finished:
    return Finished(
        request_id="r",
        sample_index=sample_index,
        reason=FinishReason.STOP,
        stop_token_id=None,
        usage=Usage(num_prompt_tokens=1, num_cached_tokens=0, num_output_tokens=1),
        timings=Timings(queue_s=0, prefill_s=0, decode_s=0, num_preemptions=0),
    )


async def events_of(opened: OpenRequest) -> list[Event]:
    return [event async for event in opened]


async def test_ends_when_every_sample_has_finished() -> None:
    case = Case(num_samples=2)
    sent: list[Event] = [tokens(0, 5), finished(0), tokens(0, 6, sample_index=1), finished(1)]
    for event in sent:
        case.opened.deliver_event(event)
    assert await events_of(case.opened) == sent
    assert case.place.forgotten == ["r"]
    case.opened.cancel_request()
    assert case.place.sent == []


async def test_events_before_an_error_are_still_seen() -> None:
    case = Case()
    case.opened.deliver_event(tokens(0, 5))
    case.opened.fail_request(unavailable("gone"))
    assert await anext(case.opened) == tokens(0, 5)
    with pytest.raises(GatewayError, match="gone"):
        await anext(case.opened)


async def test_overflow_cancels_the_request() -> None:
    case = Case(max_buffered_events=2)
    for number in range(3):
        case.opened.deliver_event(tokens(number, number))
    with pytest.raises(GatewayError, match="reads too slowly"):
        await anext(case.opened)
    assert (case.place.sent, case.place.forgotten) == ([("cancel", "r")], ["r"])


@pytest.mark.parametrize("sequence_number", [0, 2], ids=["a repeat", "a gap"])
async def test_lost_and_repeated_tokens_are_an_error(sequence_number: int) -> None:
    case = Case()
    case.opened.deliver_event(tokens(0, 5))
    case.opened.deliver_event(tokens(sequence_number, 6))
    await anext(case.opened)
    with pytest.raises(GatewayError) as caught:
        await anext(case.opened)
    assert caught.value.kind is ErrorKind.INTERNAL
    assert case.place.sent == [("cancel", "r")]


async def test_tokens_past_a_stop_string_are_dropped_and_the_end_still_comes() -> None:
    case = Case()
    case.opened.deliver_event(tokens(0, 5, 6))
    case.opened.finish_sample(0, 1)
    case.opened.deliver_event(tokens(2, 7))
    case.opened.deliver_event(finished())
    assert await events_of(case.opened) == [tokens(0, 5, 6), finished()]
    assert case.place.sent == [("finish", "r", 0, 1)]


async def test_what_was_generated_is_at_hand() -> None:
    case = Case(num_samples=2)
    case.opened.deliver_event(tokens(0, 5, 6))
    case.opened.deliver_event(tokens(0, 9, sample_index=1))
    case.opened.deliver_event(tokens(2, 7))
    assert case.opened.generated == ([5, 6, 7], [9])


async def test_a_request_that_has_nothing_yet_is_sent_as_it_was() -> None:
    case = Case(num_samples=2)
    assert case.opened.resumed_request() == case.opened.request


async def test_a_resumption_says_how_far_each_sample_is() -> None:
    case = Case(num_samples=3)
    case.opened.deliver_event(tokens(0, 5, 6))
    case.opened.deliver_event(finished(0))
    case.opened.deliver_event(tokens(0, 9, sample_index=1))
    assert case.opened.resumed_request().resumed == (
        ResumedSample(sample_index=0, generated_token_ids=(5, 6), is_finished=True),
        ResumedSample(sample_index=1, generated_token_ids=(9,), is_finished=False),
        ResumedSample(sample_index=2, generated_token_ids=(), is_finished=False),
    )


async def test_an_end_that_was_found_here_is_said_again_unless_it_was_confirmed() -> None:
    case = Case(num_samples=2)
    for index in (0, 1):
        case.opened.deliver_event(tokens(0, 5, 6, sample_index=index))
        case.opened.finish_sample(index, 1 + index)
    case.opened.deliver_event(finished(0))
    elsewhere = FakePlace()
    case.opened.leave_place()
    case.opened.begin_at_place(elsewhere)
    assert elsewhere.sent == [("finish", "r", 1, 2)]


async def test_an_end_that_is_found_between_two_places_is_said_at_the_second() -> None:
    case = Case()
    case.opened.deliver_event(tokens(0, 5, 6))
    case.opened.leave_place()
    case.opened.finish_sample(0, 1)
    elsewhere = FakePlace()
    case.opened.begin_at_place(elsewhere)
    assert (case.place.sent, elsewhere.sent) == ([], [("finish", "r", 0, 1)])


async def test_a_request_that_is_nowhere_may_be_cancelled() -> None:
    case = Case()
    case.opened.leave_place()
    case.opened.cancel_request()
    assert await events_of(case.opened) == []
    assert (case.place.sent, case.place.forgotten) == ([], [])


async def test_what_was_told_before_a_resumption_is_not_told_again() -> None:
    case = Case()

    def scored(start: int, *logprobs: float) -> PromptLogprobs:
        told = tuple(TokenLogprobs(logprob=each, top=()) for each in logprobs)
        return PromptLogprobs(request_id="r", start=start, logprobs=told)

    for event in (
        *(started("a", num_cached_tokens=1), scored(1, -1.0, -2.0), tokens(0, 5)),
        *(started("b", num_cached_tokens=9), scored(1, -1.0), scored(2, -2.0, -3.0), tokens(1, 6), finished()),
    ):
        case.opened.deliver_event(event)
    assert await events_of(case.opened) == [
        started("a", num_cached_tokens=1),
        scored(1, -1.0, -2.0),
        tokens(0, 5),
        Moved(request_id="r", sample_index=0, from_worker_id="a", to_worker_id="b"),
        scored(3, -3.0),
        tokens(1, 6),
        finished(),
    ]


def started(worker_id: str, *, num_cached_tokens: int) -> Started:
    return Started(request_id="r", sample_index=0, worker_id=worker_id, num_cached_tokens=num_cached_tokens)


async def test_a_resumption_has_the_time_that_is_left() -> None:
    opened = OpenRequest(
        InferenceRequest(request_id="r", model="m", prompt_token_ids=(1,), sampling=SamplingParams(), timeout_s=60),
        max_buffered_events=8,
    )
    left_s = opened.resumed_request().timeout_s
    assert left_s is not None and 0 < left_s <= 60


async def test_nothing_is_seen_after_a_cancel() -> None:
    case = Case()
    case.opened.cancel_request()
    case.opened.cancel_request()
    case.opened.deliver_event(tokens(0, 5))
    assert await events_of(case.opened) == []
    assert (case.place.sent, case.place.forgotten) == ([("cancel", "r")], ["r"])


@pytest.mark.parametrize("num_samples", [1, 64, 128])
async def test_the_limit_for_slow_readers_is_for_each_sample(num_samples: int) -> None:
    """The limit applies per sample: after a pause, an event loop gets the events of many steps before any reader runs."""
    case = Case(num_samples=num_samples, max_buffered_events=MAX_BUFFERED_EVENTS)
    for step in range(MAX_BUFFERED_EVENTS):
        for index in range(num_samples):
            case.opened.deliver_event(tokens(step, 5, sample_index=index))
    assert not case.place.sent and not case.opened.is_closed
    case.opened.deliver_event(tokens(MAX_BUFFERED_EVENTS, 5))
    assert case.place.sent == [("cancel", "r")]
    with pytest.raises(GatewayError, match="reads too slowly"):
        await events_of(case.opened)
