"""What the scheduler tells the client of a request, and the one thing it needs from a client: to take events without waiting."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from scheduler.errors import RequestError
from scheduler.sequence import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    request_id: str
    sample_index: int
    worker_id: str
    num_cached_tokens: int
    queue_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    request_id: str
    sample_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    sequence_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    request_id: str
    sample_index: int
    from_worker_id: str
    to_worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    request_id: str
    sample_index: int
    reason: FinishReason
    stop_token_id: int | None
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    num_preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The whole request failed; no other event of it follows."""

    request_id: str
    error: RequestError


Event = Started | Tokens | Moved | Finished | Failed


class Client(Protocol):
    """Where the events of a request go. One call per step with everything that concerns this client, in order."""

    def deliver(self, events: Seq[Event]) -> None:
        """Take the events at once; never waits, never raises."""
