"""An inference request from the gateway to the scheduler, and its protobuf form."""

from collections.abc import Sequence
from dataclasses import dataclass

from pagoda.wire.sampling import SamplingParams
from protos.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedSample:
    """A sample that another scheduler had begun: the tokens so far."""

    sample_index: int
    generated_token_ids: tuple[int, ...]
    is_finished: bool = False

    def to_proto(self) -> inference_pb2.ResumedSample:
        return inference_pb2.ResumedSample(
            sample_index=self.sample_index,
            generated_token_ids=self.generated_token_ids,
            finished=self.is_finished,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.ResumedSample) -> "ResumedSample":
        return cls(
            sample_index=message.sample_index,
            generated_token_ids=tuple(message.generated_token_ids),
            is_finished=message.finished,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """Everything that is needed to start a request, or to resume it on another scheduler. The seed is always set."""

    request_id: str
    model: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    num_samples: int = 1
    tenant: str = ""
    priority: int = 0
    timeout_s: float | None = None
    """Time limit, in seconds. In whole milliseconds on the wire."""
    cache_salt: str = ""
    resumed: tuple[ResumedSample, ...] = ()
    """Samples to resume. Empty for a new request."""
    traceparent: str = ""
    tracestate: str = ""
    group_id: str = ""
    """Id shared by all requests of one call with several prompts."""
    keep_alive_s: float | None = None
    """Time that the model stays loaded after the request, in seconds. None keeps the current value."""
    keep_alive_only_prolongs: bool = False
    """True if `keep_alive_s` applies only if it is longer than the current value."""

    @property
    def open_samples(self) -> list[int]:
        finished = {sample.sample_index for sample in self.resumed if sample.is_finished}
        return [index for index in range(self.num_samples) if index not in finished]

    def to_proto(self) -> inference_pb2.GenerateRequest:
        return inference_pb2.GenerateRequest(
            request_id=self.request_id,
            model=self.model,
            prompt_token_ids=self.prompt_token_ids,
            sampling=self.sampling.to_proto(),
            num_samples=self.num_samples,
            tenant=self.tenant,
            priority=self.priority,
            timeout_ms=0 if self.timeout_s is None else max(1, round(self.timeout_s * 1000)),
            cache_salt=self.cache_salt,
            resume=[sample.to_proto() for sample in self.resumed],
            traceparent=self.traceparent,
            tracestate=self.tracestate,
            group_id=self.group_id,
            keep_alive_s=self.keep_alive_s,
            keep_alive_only_prolongs=self.keep_alive_only_prolongs,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.GenerateRequest) -> "InferenceRequest":
        return cls(
            request_id=message.request_id,
            model=message.model,
            prompt_token_ids=tuple(message.prompt_token_ids),
            sampling=SamplingParams.from_proto(message.sampling),
            num_samples=message.num_samples or 1,
            tenant=message.tenant,
            priority=message.priority,
            timeout_s=message.timeout_ms / 1000 if message.timeout_ms else None,
            cache_salt=message.cache_salt,
            resumed=tuple(map(ResumedSample.from_proto, message.resume)),
            traceparent=message.traceparent,
            tracestate=message.tracestate,
            group_id=message.group_id,
            keep_alive_s=message.keep_alive_s if message.HasField("keep_alive_s") else None,
            keep_alive_only_prolongs=message.keep_alive_only_prolongs,
        )
