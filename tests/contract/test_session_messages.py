"""Tests that the gateway receives a scheduler's events unchanged and in order, however they are packed into messages."""

from collections.abc import Sequence as Seq

from pagoda.wire.events import Event, Started, Tokens, events_from_proto
from pagoda.wire.logprobs import TokenLogprobs
from scheduler.errors import UnavailableError
from scheduler.queue.events import Failed
from scheduler.rpc.client_messages import session_response


def tokens(request_id: str, number: int, *token_ids: int, logprobs: Seq[TokenLogprobs] = ()) -> Tokens:
    return Tokens(
        request_id=request_id,
        sample_index=1,
        token_ids=token_ids,
        logprobs=tuple(logprobs),
        sequence_number=number,
    )


def heard(told: Seq[Event | Failed]) -> list[Event]:
    return [event for message in session_response(told).events for event in events_from_proto(message)]


def test_single_tokens_share_a_batch_and_nothing_overtakes() -> None:
    logprobs = TokenLogprobs(logprob=-0.5, top=((8, -0.25),))
    spoken = [
        tokens("a", 0, 5),
        tokens("b", 70_000, 100_000),
        tokens("a", 1, 6),
        tokens("a", 2, 7, logprobs=[logprobs]),
        tokens("b", 70_001, 8, 9),
        tokens("a", 3, 10),
    ]
    started = Started(request_id="c", sample_index=1, worker_id="w", num_cached_tokens=0)
    events: list[Event] = [*spoken[:2], started, *spoken[2:]]
    assert heard(events) == events
    assert len(session_response(spoken[:3]).events) == 1


def test_failures_stand_beside_the_events() -> None:
    told = [tokens("a", 0, 5), tokens("b", 0, 5)]
    failed = Failed(request_id="a", error=UnavailableError("no worker", retry_after_s=1.0))
    message = session_response([*told, failed, tokens("b", 1, 6)])
    assert [(error.request_id, error.retry_after_s) for error in message.errors] == [("a", 1.0)]
    assert heard([*told, failed]) == told
