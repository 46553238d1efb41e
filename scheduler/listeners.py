"""Listeners of sequences and of the workers' caches, as which tracing and the prefix index are told of the loop's doings."""

from collections.abc import Sequence as Seq
from enum import Enum

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


class SequenceListener:
    """Hears what becomes of each sequence; tracing overrides what it wants to know. Calls return at once.

    After `sequence_queued` a sequence is heard of until `sequence_finished` or `sequence_failed`, one of which comes last.
    """

    def sequence_queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        """It waits in that place of its tenant's line, among so many of all. Return the trace context that its steps carry to
        the workers; empty for none."""
        return ""

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

    def sequence_finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """It has ended by itself, or was given up."""

    def sequence_failed(self, sequence: Sequence, error: RequestError) -> None:
        """Its request has failed."""


class CacheListener:
    """Hears what the workers' caches hold; the prefix index's publisher overrides all of it. Calls return at once."""

    def worker_attached(self, worker: AttachedWorker) -> None:
        """A worker has come, perhaps with blocks in its pool that it had kept."""

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        """With a step's result some blocks became final; before that some others had to go."""

    def worker_detached(self, worker: AttachedWorker) -> None:
        """A worker is gone, and its blocks with it."""
