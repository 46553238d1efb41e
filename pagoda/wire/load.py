"""The load of a scheduler: its workers, queue and counters, and their protobuf form."""

from dataclasses import dataclass

from protos.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """The load of one worker."""

    worker_id: str
    model: str
    device: str
    numerics_id: str
    num_running: int
    page_size: int
    num_pages_free: int
    num_pages_cached: int
    num_pages_used: int
    weights_bytes: int
    kv_bytes: int

    @property
    def num_pages(self) -> int:
        return self.num_pages_free + self.num_pages_cached + self.num_pages_used

    def to_proto(self) -> inference_pb2.WorkerLoad:
        return inference_pb2.WorkerLoad(
            worker_id=self.worker_id,
            model=self.model,
            device=self.device,
            numerics_id=self.numerics_id,
            num_running=self.num_running,
            page_size=self.page_size,
            num_pages_free=self.num_pages_free,
            num_pages_cached=self.num_pages_cached,
            num_pages_used=self.num_pages_used,
            weights_bytes=self.weights_bytes,
            kv_bytes=self.kv_bytes,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.WorkerLoad) -> "WorkerLoad":
        return cls(
            worker_id=message.worker_id,
            model=message.model,
            device=message.device,
            numerics_id=message.numerics_id,
            num_running=message.num_running,
            page_size=message.page_size,
            num_pages_free=message.num_pages_free,
            num_pages_cached=message.num_pages_cached,
            num_pages_used=message.num_pages_used,
            weights_bytes=message.weights_bytes,
            kv_bytes=message.kv_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """The sequences of one tenant that wait for one model."""

    model: str
    tenant: str
    num_waiting: int
    oldest_s: float
    """Age of the oldest waiting sequence, in seconds."""
    next_position: int
    """Position of the next of these sequences among all that wait at the same scheduler, from 1."""

    def to_proto(self) -> inference_pb2.QueueLoad:
        return inference_pb2.QueueLoad(
            model=self.model,
            tenant=self.tenant,
            num_waiting=self.num_waiting,
            oldest_s=self.oldest_s,
            next_position=self.next_position,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.QueueLoad) -> "QueueLoad":
        return cls(
            model=message.model,
            tenant=message.tenant,
            num_waiting=message.num_waiting,
            oldest_s=message.oldest_s,
            next_position=message.next_position,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixIndexLoad:
    """Counters and state of the scheduler's connection to the shared prefix index."""

    num_published_blocks: int
    num_dropped_blocks: int
    breaker_state: inference_pb2.BreakerState.ValueType

    @property
    def is_reachable(self) -> bool:
        """False while the circuit breaker is open and look-ups fail immediately."""
        return self.breaker_state == inference_pb2.BREAKER_STATE_CLOSED

    def to_proto(self) -> inference_pb2.PrefixIndexLoad:
        return inference_pb2.PrefixIndexLoad(
            num_published_blocks=self.num_published_blocks,
            num_dropped_blocks=self.num_dropped_blocks,
            breaker_state=self.breaker_state,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.PrefixIndexLoad) -> "PrefixIndexLoad":
        return cls(
            num_published_blocks=message.num_published_blocks,
            num_dropped_blocks=message.num_dropped_blocks,
            breaker_state=message.breaker_state,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLoad:
    """Current gauges of a scheduler, and its counters since the start."""

    workers: tuple[WorkerLoad, ...]
    queues: tuple[QueueLoad, ...]
    prefix_index: PrefixIndexLoad
    is_draining: bool
    queue_drain_per_s: float
    """Recent rate at which sequences ended while others waited, per second. 0 if none ended yet."""
    num_waiting: int
    num_running: int
    num_pending_tokens: int
    """Tokens to compute before each sequence has its next token, not counting what may be cached."""
    num_steps: int
    num_step_tokens: int
    """Tokens computed by all steps: prompt chunks and decoded tokens."""
    num_preemptions: int
    num_prefix_queries: int
    num_prefix_hits: int
    num_model_loads: int
    num_failed_model_loads: int
    num_model_unloads: int
    model_load_s: float

    def to_proto(self) -> inference_pb2.GetLoadResponse:
        return inference_pb2.GetLoadResponse(
            workers=[worker.to_proto() for worker in self.workers],
            queues=[queue.to_proto() for queue in self.queues],
            prefix_index=self.prefix_index.to_proto(),
            draining=self.is_draining,
            queue_drain_per_s=self.queue_drain_per_s,
            num_waiting=self.num_waiting,
            num_running=self.num_running,
            num_pending_tokens=self.num_pending_tokens,
            num_steps=self.num_steps,
            num_step_tokens=self.num_step_tokens,
            num_preemptions=self.num_preemptions,
            num_prefix_queries=self.num_prefix_queries,
            num_prefix_hits=self.num_prefix_hits,
            num_model_loads=self.num_model_loads,
            num_failed_model_loads=self.num_failed_model_loads,
            num_model_unloads=self.num_model_unloads,
            model_load_s=self.model_load_s,
        )

    @classmethod
    def from_proto(cls, message: inference_pb2.GetLoadResponse) -> "SchedulerLoad":
        return cls(
            workers=tuple(map(WorkerLoad.from_proto, message.workers)),
            queues=tuple(map(QueueLoad.from_proto, message.queues)),
            prefix_index=PrefixIndexLoad.from_proto(message.prefix_index),
            is_draining=message.draining,
            queue_drain_per_s=message.queue_drain_per_s,
            num_waiting=message.num_waiting,
            num_running=message.num_running,
            num_pending_tokens=message.num_pending_tokens,
            num_steps=message.num_steps,
            num_step_tokens=message.num_step_tokens,
            num_preemptions=message.num_preemptions,
            num_prefix_queries=message.num_prefix_queries,
            num_prefix_hits=message.num_prefix_hits,
            num_model_loads=message.num_model_loads,
            num_failed_model_loads=message.num_failed_model_loads,
            num_model_unloads=message.num_model_unloads,
            model_load_s=message.model_load_s,
        )
