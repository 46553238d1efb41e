"""The listeners of the loop: tracing follows its sequences, and the prefix index follows the caches of its workers."""

from collections.abc import Sequence as Seq
from enum import Enum

from kvcache.block_hash import BlockHash
from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from scheduler.errors import RequestError
from scheduler.steps.sequence import Sequence
from scheduler.steps.worker_state import AttachedWorker


class Interruption(Enum):
    """The reason why a running sequence waits again."""

    PREEMPTED = "preempted"
    """Other sequences needed its pages, or a suspect needed its worker."""
    WORKER_LOST = "worker lost"
    WORKER_LEAVES = "worker leaves"
    """Its worker is about to stop, and another one has room."""


class SequenceListener:
    """A listener to the events of sequences, which tracing overrides. Its methods must return immediately.

    `sequence_queued` is called first for each sequence, and either `sequence_finished` or `sequence_failed` last.
    """

    def sequence_queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        """Note that a sequence waits, at `place` among those of its tenant, with `num_waiting` sequences waiting in all. Return
        the trace context that its steps carry to the workers; empty for none."""
        return ""

    def model_loading(self, sequence: Sequence, worker_id: str) -> None:
        """Note that this worker loads the model that the sequence waits for."""

    def model_loaded(self, sequence: Sequence, worker_id: str, load_s: float) -> None:
        """Note that the model that the sequence waits for is loaded; it took `load_s`."""

    def sequence_admitted(self, sequence: Sequence, num_cached_tokens: int) -> None:
        """Note that the first step on a worker is planned. `admitted_before` still names the previous worker."""

    def sequence_sampled(self, sequence: Sequence) -> None:
        """Note new tokens. Called for every step, so it must cost next to nothing."""

    def sequence_interrupted(self, sequence: Sequence, why: Interruption) -> None:
        """Note that a sequence waits again. Its `worker_id` still names the worker that it ran on."""

    def sequence_finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """Note that a sequence has ended or was aborted."""

    def sequence_failed(self, sequence: Sequence, error: RequestError) -> None:
        """Note that the request of a sequence has failed."""


class CacheListener:
    """A listener to changes of the workers' caches, which the publisher of the prefix index overrides. Its methods must return
    immediately."""

    def worker_attached(self, worker: AttachedWorker) -> None:
        """Note a new worker, whose pool may already hold blocks from before."""

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        """Note the blocks that a step's result made final, and the blocks that were evicted before it."""

    def worker_detached(self, worker: AttachedWorker) -> None:
        """Note that a worker is gone, and its blocks with it."""
