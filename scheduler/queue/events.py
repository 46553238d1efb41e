"""The events that the scheduler sends to the client of a request, and the protocol of a client."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from pagoda.wire.events import Event, Moved, PromptLogprobs, Started, Tokens
from pagoda.wire.finished import Finished, FinishReason, Timings, Usage
from pagoda.wire.logprobs import TokenLogprobs
from scheduler.errors import RequestError
from scheduler.steps.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The event of a request that failed as a whole. It is the request's last one."""

    request_id: str
    error: RequestError


ClientEvent = Event | Failed


class Client(Protocol):
    """A receiver of the events of its requests."""

    def deliver(self, events: Seq[ClientEvent]) -> None:
        """Take all events of a step for this client, in order. Must return immediately, and must not raise."""


def started_event(sequence: Sequence) -> Started:
    """Return the event of a sequence whose first step has just been planned."""
    return Started(
        request_id=sequence.request_id,
        sample_index=sequence.sample_index,
        worker_id=sequence.computation.worker_id or "",
        num_cached_tokens=sequence.history.num_cached_tokens or 0,
    )


def moved_event(sequence: Sequence) -> Moved:
    return Moved(
        request_id=sequence.request_id,
        sample_index=sequence.sample_index,
        from_worker_id=sequence.history.admitted_before or "",
        to_worker_id=sequence.computation.worker_id or "",
    )


def tokens_event(sequence: Sequence, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]) -> Tokens:
    """Return the event of tokens that are not appended to the sequence yet."""
    return Tokens(sequence.request_id, sequence.sample_index, token_ids, logprobs, sequence.num_output_tokens)


def prompt_logprobs_event(sequence: Sequence, start: int, logprobs: tuple[TokenLogprobs, ...]) -> PromptLogprobs:
    return PromptLogprobs(request_id=sequence.request_id, start=start, logprobs=logprobs)


def finished_event(sequence: Sequence, reason: FinishReason, now_s: float) -> Finished:
    """Return the event of a sequence's end, with all its tokens, and with zero seconds for stages that it never reached."""
    history = sequence.history
    first_step_s = now_s if history.first_step_s is None else history.first_step_s
    first_token_s = now_s if history.first_token_s is None else history.first_token_s
    return Finished(
        request_id=sequence.request_id,
        sample_index=sequence.sample_index,
        reason=reason,
        stop_token_id=None,
        usage=Usage(
            num_prompt_tokens=sequence.num_prompt_tokens,
            num_cached_tokens=min(history.num_cached_tokens or 0, sequence.num_prompt_tokens),
            num_output_tokens=sequence.num_output_tokens,
        ),
        timings=Timings(
            queue_s=first_step_s - history.arrival_s,
            prefill_s=first_token_s - first_step_s,
            decode_s=now_s - first_token_s,
            num_preemptions=history.num_preemptions,
        ),
    )
