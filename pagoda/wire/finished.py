"""The end of a sample with its usage and timings, and its protobuf form."""

from dataclasses import dataclass
from enum import StrEnum

from protos.v1 import inference_pb2, types_pb2


class FinishReason(StrEnum):
    """The reason why a sample ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"

    def to_proto(self) -> types_pb2.FinishReason.ValueType:
        return types_pb2.FinishReason.Value(f"FINISH_REASON_{self.name}")

    @classmethod
    def from_proto(cls, value: types_pb2.FinishReason.ValueType) -> "FinishReason":
        """Return the reason. Raises KeyError or ValueError for one that this version does not know."""
        return cls[types_pb2.FinishReason.Name(value).removeprefix("FINISH_REASON_")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Numbers of tokens of a sample."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int

    def to_proto(self) -> types_pb2.Usage:
        return types_pb2.Usage(
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_output_tokens=self.num_output_tokens,
        )

    @classmethod
    def from_proto(cls, message: types_pb2.Usage) -> "Usage":
        return cls(
            num_prompt_tokens=message.num_prompt_tokens,
            num_cached_tokens=message.num_cached_tokens,
            num_output_tokens=message.num_output_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Times of a sample, in seconds."""

    queue_s: float
    prefill_s: float
    decode_s: float
    num_preemptions: int

    def to_proto(self) -> types_pb2.Timings:
        return types_pb2.Timings(
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            num_preemptions=self.num_preemptions,
        )

    @classmethod
    def from_proto(cls, message: types_pb2.Timings) -> "Timings":
        return cls(
            queue_s=message.queue_s,
            prefill_s=message.prefill_s,
            decode_s=message.decode_s,
            num_preemptions=message.num_preemptions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A sample ended."""

    request_id: str
    sample_index: int
    reason: FinishReason
    stop_token_id: int | None
    usage: Usage
    timings: Timings

    def to_proto(self) -> inference_pb2.Finished:
        return inference_pb2.Finished(
            request_id=self.request_id,
            sample_index=self.sample_index,
            reason=self.reason.to_proto(),
            stop_token_id=self.stop_token_id,
            usage=self.usage.to_proto(),
            timings=self.timings.to_proto(),
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.Finished) -> "Finished":
        return cls(
            request_id=message.request_id,
            sample_index=message.sample_index,
            reason=FinishReason.from_proto(message.reason),
            stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
            usage=Usage.from_proto(message.usage),
            timings=Timings.from_proto(message.timings),
        )
