"""Protocols for observers of sequences and of the workers' caches, so that the loop needs no tracing and no prefix index."""

from collections.abc import Sequence as Seq
from enum import Enum
from typing import Protocol

from kvcache.block_hash import BlockHash
from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from scheduler.errors import RequestError
from scheduler.steps.sequence import Sequence
from scheduler.steps.worker_state import AttachedWorker


class Interruption(Enum):
    """Why a sequence that ran waits again."""

    PREEMPTED = "preempted"
    """Its pages were needed, or its worker for a suspect."""
    WORKER_LOST = "worker lost"
    WORKER_LEAVES = "worker leaves"
    """Its worker wants to end, and another one has room."""


class SequenceListener(Protocol):
    """Calls return at once. After `queued` each sequence is told of until `finished` or `failed`, one of which comes last."""

    def sequence_queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        """It waits in that place of its tenant's line, among so many of all. Returns the trace context that its steps carry to
        the workers; empty for none."""

    def model_loading(self, sequence: Sequence, worker_id: str) -> None:
        """It waits for its model, which this worker has been told to load."""

    def model_loaded(self, sequence: Sequence, worker_id: str, load_s: float) -> None:
        """The model that it waited for is in memory, after so long."""

    def sequence_admitted(self, sequence: Sequence, num_cached_tokens: int) -> None:
        """Its first step on a worker is planned. `admitted_before` still names the worker before that."""

    def sequence_sampled(self, sequence: Sequence) -> None:
        """It has new tokens. Called for every step, so it must cost next to nothing."""

    def sequence_interrupted(self, sequence: Sequence, why: Interruption) -> None:
        """It waits again. `worker_id` still names the worker that it ran on."""

    def sequence_finished(self, sequence: Sequence, reason: FinishReason) -> None: ...

    def sequence_failed(self, sequence: Sequence, error: RequestError) -> None: ...


class NobodyFollows:
    """A `SequenceListener` for a loop without tracing."""

    def sequence_queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        return ""

    def model_loading(self, sequence: Sequence, worker_id: str) -> None:
        pass

    def model_loaded(self, sequence: Sequence, worker_id: str, load_s: float) -> None:
        pass

    def sequence_admitted(self, sequence: Sequence, num_cached_tokens: int) -> None:
        pass

    def sequence_sampled(self, sequence: Sequence) -> None:
        pass

    def sequence_interrupted(self, sequence: Sequence, why: Interruption) -> None:
        pass

    def sequence_finished(self, sequence: Sequence, reason: FinishReason) -> None:
        pass

    def sequence_failed(self, sequence: Sequence, error: RequestError) -> None:
        pass


class CacheListener(Protocol):
    """Calls return at once."""

    def worker_attached(self, worker: AttachedWorker) -> None:
        """Perhaps with blocks in its pool that it had kept."""

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        """With a step's result some blocks became final; before that some others had to go."""

    def worker_detached(self, worker: AttachedWorker) -> None: ...


class NobodyListens:
    """A `CacheListener` for a loop without a prefix index."""

    def worker_attached(self, worker: AttachedWorker) -> None:
        pass

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        pass

    def worker_detached(self, worker: AttachedWorker) -> None:
        pass
