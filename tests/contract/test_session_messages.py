"""What the scheduler tells a session is what the gateway hears, in order, however it is packed."""

from collections.abc import Sequence as Seq
from typing import Any

from gateway.upstream import inference
from gateway.upstream.wire import events_from_proto
from pagoda.wire.logprobs import TokenLogprobs
from scheduler.errors import UnavailableError
from scheduler.queue.events import Event, Failed, Started, Tokens
from scheduler.rpc.client_messages import events_to_proto


def tokens(request_id: str, number: int, *token_ids: int, logprobs: Seq[TokenLogprobs] = ()) -> Tokens:
    return Tokens(
        request_id=request_id,
        sample_index=1,
        token_ids=token_ids,
        logprobs=tuple(logprobs),
        sequence_number=number,
    )


def heard(events: Seq[Event]) -> list[tuple[str, Any]]:
    return [pair for event in events_to_proto(events).events for pair in events_from_proto(event)]


def as_heard(event: Tokens) -> tuple[str, inference.Tokens]:
    return event.request_id, inference.Tokens(
        sample_index=1,
        token_ids=event.token_ids,
        logprobs=event.logprobs,
        sequence_number=event.sequence_number,
    )


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
    started = Started(request_id="c", sample_index=1, worker_id="w", num_cached_tokens=0, queue_s=0.5)
    events: list[Started | Tokens] = [*spoken[:2], started, *spoken[2:]]
    pairs = heard(events)
    assert [request_id for request_id, _ in pairs] == [event.request_id for event in events]
    assert [pair for pair in pairs if isinstance(pair[1], inference.Tokens)] == list(map(as_heard, spoken))
    assert len(events_to_proto(spoken[:3]).events) == 1


def test_errors_stand_beside_the_events() -> None:
    failed = Failed(request_id="a", error=UnavailableError("no worker", retry_after_s=1.0))
    message = events_to_proto([tokens("b", 0, 5), failed, tokens("b", 1, 6)])
    assert [error.request_id for error in message.errors] == ["a"]
    assert len(message.events) == 2
