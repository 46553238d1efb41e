"""The result of a step that a worker sends to the scheduler, and its protobuf form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pagoda.wire.logprobs import TokenLogprobs
from protos.v1 import worker_pb2


class SampledTokens(NamedTuple):
    """The new tokens of one sequence.

    A named tuple, because one is made per sequence and step, and a frozen dataclass takes four times as long to make.
    """

    sequence_id: int
    attempt: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    stopped: bool = False
    stop_token_id: int | None = None
    grammar_failed: bool = False

    @property
    def fits_in_columns(self) -> bool:
        """True for a single token without other values, which an entry of SampledBatch can represent."""
        return len(self.token_ids) == 1 and not self.logprobs and not self.stopped

    def to_proto(self) -> worker_pb2.SampledTokens:
        return worker_pb2.SampledTokens(
            sequence_id=self.sequence_id,
            attempt=self.attempt,
            token_ids=self.token_ids,
            logprobs=[logprobs.to_proto() for logprobs in self.logprobs],
            stopped=self.stopped,
            stop_token_id=self.stop_token_id,
            grammar_failed=self.grammar_failed,
        )

    @classmethod
    def from_proto(cls, message: worker_pb2.SampledTokens) -> "SampledTokens":
        return cls(
            sequence_id=message.sequence_id,
            attempt=message.attempt,
            token_ids=tuple(message.token_ids),
            logprobs=tuple(map(TokenLogprobs.from_proto, message.logprobs)),
            stopped=message.stopped,
            stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
            grammar_failed=message.grammar_failed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTokens:
    """Log-probabilities of the prompt tokens from position `start` on."""

    sequence_id: int
    attempt: int
    start: int
    logprobs: tuple[TokenLogprobs, ...]

    def to_proto(self) -> worker_pb2.ScoredTokens:
        return worker_pb2.ScoredTokens(
            sequence_id=self.sequence_id,
            attempt=self.attempt,
            start=self.start,
            logprobs=[logprobs.to_proto() for logprobs in self.logprobs],
        )

    @classmethod
    def from_proto(cls, message: worker_pb2.ScoredTokens) -> "ScoredTokens":
        return cls(
            sequence_id=message.sequence_id,
            attempt=message.attempt,
            start=message.start,
            logprobs=tuple(map(TokenLogprobs.from_proto, message.logprobs)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The result of one step. The order of `sampled` has no meaning: on the wire, entries that fit in columns come last."""

    step_id: int
    sampled: tuple[SampledTokens, ...] = ()
    scored: tuple[ScoredTokens, ...] = ()
    step_us: int = 0
    next_is_last: bool = False
    """True if the lease ends early, with the step after this one."""

    def to_proto(self, session_id: int) -> worker_pb2.StepResult:
        plain = [sampled for sampled in self.sampled if sampled.fits_in_columns]
        return worker_pb2.StepResult(
            session_id=session_id,
            step_id=self.step_id,
            sampled=[sampled.to_proto() for sampled in self.sampled if not sampled.fits_in_columns],
            sampled_batch=worker_pb2.SampledBatch(
                sequence_ids=[sampled.sequence_id for sampled in plain],
                attempts=[sampled.attempt for sampled in plain],
                token_ids=[sampled.token_ids[0] for sampled in plain],
            ),
            scored=[scored.to_proto() for scored in self.scored],
            step_us=self.step_us,
            next_is_last=self.next_is_last,
        )

    @classmethod
    def from_proto(cls, message: worker_pb2.StepResult) -> "StepResult":
        """Return the result. Raises ValueError if the columns of sampled_batch have different lengths."""
        return cls(
            step_id=message.step_id,
            sampled=(*map(SampledTokens.from_proto, message.sampled), *_rows(message.sampled_batch)),
            scored=tuple(map(ScoredTokens.from_proto, message.scored)),
            step_us=message.step_us,
            next_is_last=message.next_is_last,
        )


def _rows(batch: worker_pb2.SampledBatch) -> Iterator[SampledTokens]:
    columns = zip(batch.sequence_ids, batch.attempts, batch.token_ids, strict=True)
    return (SampledTokens(sequence_id, attempt, (token_id,)) for sequence_id, attempt, token_id in columns)
