"""What the gateway asks of the scheduler and what it hears back, as plain data. Knows nothing about gRPC, HTTP or text."""

from dataclasses import dataclass
from enum import StrEnum

from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.sampling import SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedSample:
    """How far a sample had come when its scheduler was lost."""

    sample_index: int
    generated_token_ids: tuple[int, ...]
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """Everything that is needed to begin a request, and to begin it again elsewhere: the seed is always filled in."""

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    num_samples: int = 1
    timeout_s: float | None = None
    tenant: str = ""
    cache_salt: str = ""
    priority: int = 0
    traceparent: str = ""
    tracestate: str = ""
    group_id: str = ""
    """The same in all requests of one call that has several prompts."""
    keep_alive_s: float | None = None
    may_unload: bool = True
    """Whether `keep_alive_s` may be less than what others asked for."""
    resumed: tuple[ResumedSample, ...] = ()
    """Empty for a request from the start, else each sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    sample_index: int
    worker_id: str
    num_cached_tokens: int
    queue_s: float


@dataclass(slots=True, kw_only=True)  # Not frozen, which costs a microsecond for each token.
class Tokens:
    sample_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    """One per token id, or none at all."""
    sequence_number: int
    """How many tokens of this sample came before these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    sample_index: int
    start: int
    """The position in the prompt of the first token that is told of."""
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    sample_index: int
    from_worker_id: str
    to_worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    sample_index: int
    reason: FinishReason
    stop_token_id: int | None
    usage: Usage
    timings: Timings


Event = Started | PromptLogprobs | Tokens | Moved | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    name: str
    digest: str
    max_model_len: int
    num_workers: int
    """Those that have it in memory."""
    num_unloaded_workers: int
    """Those that load it for the next request."""
    device: str
    expires_in_s: float | None
    """When it leaves memory if no request comes; None is never."""
    page_size: int
    """Tokens in a block of a prefix."""

    @property
    def is_served(self) -> bool:
        return self.num_workers + self.num_unloaded_workers > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    worker_id: str
    num_pages_free: int
    num_pages_cached: int
    num_pages_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """Those of a tenant that wait for a model."""

    model: str
    tenant: str
    num_waiting: int
    oldest_s: float
    """Since the one that waits longest arrived."""
    next_position: int
    """Of its next one among all that wait at the same scheduler; the first is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    workers: tuple[WorkerLoad, ...]
    queues: tuple[QueueLoad, ...]
    queue_drain_per_s: float
    """Sequences that ended lately while others waited; 0 where none did yet."""
    num_waiting: int
    num_running: int
    num_pending_tokens: int
    """To be computed before each sequence has its next one, whatever may be cached."""
    num_preemptions: int
    num_prefix_queries: int
    num_prefix_hits: int
    num_model_loads: int
    num_failed_model_loads: int
    num_model_unloads: int
    model_load_s: float
    num_index_published: int
    num_index_dropped: int
    is_index_reachable: bool
    """False while look-ups in the shared prefix index are given up at once."""
