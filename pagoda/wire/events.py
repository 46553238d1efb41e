"""Events of a request that the scheduler sends to the gateway, and their protobuf form: one message per event.

The failure of a whole request (RequestError) is not among them, because each tier has its own errors.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from pagoda.wire.finished import Finished
from pagoda.wire.logprobs import TokenLogprobs
from protos.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A sample was admitted to a worker for the first time."""

    request_id: str
    sample_index: int
    worker_id: str
    num_cached_tokens: int

    def to_proto(self) -> inference_pb2.Started:
        return inference_pb2.Started(
            request_id=self.request_id,
            sample_index=self.sample_index,
            worker_id=self.worker_id,
            num_cached_tokens=self.num_cached_tokens,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.Started) -> "Started":
        return cls(
            request_id=message.request_id,
            sample_index=message.sample_index,
            worker_id=message.worker_id,
            num_cached_tokens=message.num_cached_tokens,
        )


class Tokens(NamedTuple):
    """New tokens of a sample.

    A named tuple, because one is made per sequence and step, and a frozen dataclass takes four times as long to make.
    """

    request_id: str
    sample_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    """One entry per token id, or empty."""
    sequence_number: int
    """Number of this sample's tokens before these."""

    def to_proto(self) -> inference_pb2.Tokens:
        return inference_pb2.Tokens(
            request_id=self.request_id,
            sample_index=self.sample_index,
            token_ids=self.token_ids,
            logprobs=[logprobs.to_proto() for logprobs in self.logprobs],
            sequence_number=self.sequence_number,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.Tokens) -> "Tokens":
        return cls(
            request_id=message.request_id,
            sample_index=message.sample_index,
            token_ids=tuple(message.token_ids),
            logprobs=tuple(map(TokenLogprobs.from_proto, message.logprobs)),
            sequence_number=message.sequence_number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """Log-probabilities of prompt tokens, which are the same for all samples of a request."""

    request_id: str
    start: int
    """Position in the prompt of the first token."""
    logprobs: tuple[TokenLogprobs, ...]

    def to_proto(self) -> inference_pb2.PromptLogprobs:
        return inference_pb2.PromptLogprobs(
            request_id=self.request_id,
            start=self.start,
            logprobs=[logprobs.to_proto() for logprobs in self.logprobs],
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.PromptLogprobs) -> "PromptLogprobs":
        return cls(
            request_id=message.request_id,
            start=message.start,
            logprobs=tuple(map(TokenLogprobs.from_proto, message.logprobs)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A sample moved to another worker."""

    request_id: str
    sample_index: int
    from_worker_id: str
    to_worker_id: str

    def to_proto(self) -> inference_pb2.Moved:
        return inference_pb2.Moved(
            request_id=self.request_id,
            sample_index=self.sample_index,
            from_worker_id=self.from_worker_id,
            to_worker_id=self.to_worker_id,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.Moved) -> "Moved":
        return cls(
            request_id=message.request_id,
            sample_index=message.sample_index,
            from_worker_id=message.from_worker_id,
            to_worker_id=message.to_worker_id,
        )


Event = Started | PromptLogprobs | Tokens | Moved | Finished


def event_to_proto(event: Event) -> inference_pb2.GenerateResponse:
    match event:
        case Tokens():
            return inference_pb2.GenerateResponse(tokens=event.to_proto())
        case Started():
            return inference_pb2.GenerateResponse(started=event.to_proto())
        case PromptLogprobs():
            return inference_pb2.GenerateResponse(prompt_logprobs=event.to_proto())
        case Moved():
            return inference_pb2.GenerateResponse(moved=event.to_proto())
        case Finished():
            return inference_pb2.GenerateResponse(finished=event.to_proto())


def events_to_proto(events: Iterable[Event]) -> list[inference_pb2.GenerateResponse]:
    """Return the messages in order, with adjacent single tokens as one batch."""
    messages = []
    for fits_in_columns, group in groupby(events, _fits_in_columns):
        if fits_in_columns:
            messages.append(inference_pb2.GenerateResponse(token_batch=_columns(group)))
        else:
            messages += map(event_to_proto, group)
    return messages


def events_from_proto(message: inference_pb2.GenerateResponse) -> Iterable[Event]:
    """Return the events of one message, or none for a kind that this version does not know.

    Raises ValueError for a batch whose columns have different lengths.
    """
    match message.WhichOneof("event"):
        case "token_batch":
            return _rows(message.token_batch)
        case "tokens":
            return (Tokens.from_proto(message.tokens),)
        case "started":
            return (Started.from_proto(message.started),)
        case "prompt_logprobs":
            return (PromptLogprobs.from_proto(message.prompt_logprobs),)
        case "moved":
            return (Moved.from_proto(message.moved),)
        case "finished":
            return (Finished.from_proto(message.finished),)
        case _:
            return ()


def _fits_in_columns(event: Event) -> bool:
    """Return True for a single token without log-probabilities, which an entry of TokenBatch can represent."""
    return type(event) is Tokens and len(event.token_ids) == 1 and not event.logprobs


def _columns(events: Iterable[Event]) -> inference_pb2.TokenBatch:
    request_ids, sample_indexes, token_ids, _, sequence_numbers = zip(*events, strict=True)
    return inference_pb2.TokenBatch(
        request_ids=request_ids,
        sample_indexes=sample_indexes,
        token_ids=[token_id for (token_id,) in token_ids],
        sequence_numbers=sequence_numbers,
    )


def _rows(batch: inference_pb2.TokenBatch) -> Iterator[Tokens]:
    columns = zip(batch.request_ids, batch.sample_indexes, batch.token_ids, batch.sequence_numbers, strict=True)
    return (Tokens(request_id, sample, (token_id,), (), number) for request_id, sample, token_id, number in columns)
