"""Who hears what becomes of each sequence: a protocol, so that the loop knows nothing of traces."""

from typing import Protocol

from scheduler.errors import RequestError
from scheduler.request import InferenceRequest
from scheduler.sequence import FinishReason, Sequence


class SequenceListener(Protocol):
    """Calls return at once. After `queued` each sequence is told of until `finished` or `failed`, one of which comes last."""

    def queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        """It waits in that place of its tenant's line, among so many of all. Returns the trace context that its steps carry to
        the workers; empty for none."""

    def model_loading(self, sequence: Sequence, worker_id: str) -> None:
        """It waits for its model, which this worker has been told to load."""

    def model_loaded(self, sequence: Sequence, worker_id: str, load_s: float) -> None:
        """The model that it waited for is in memory, after so long."""

    def admitted(self, sequence: Sequence, num_cached_tokens: int) -> None:
        """Its first step on a worker is planned. `admitted_before` still names the worker before that."""

    def sampled(self, sequence: Sequence) -> None:
        """It has new tokens. Called for every step, so it must cost next to nothing."""

    def preempted(self, sequence: Sequence) -> None:
        """It waits again, since its pages were needed, or its worker for a suspect."""

    def worker_lost(self, sequence: Sequence) -> None:
        """It waits again, since its worker is gone."""

    def worker_leaves(self, sequence: Sequence) -> None:
        """It waits for another worker, since its own wants to end."""

    def finished(self, sequence: Sequence, reason: FinishReason) -> None: ...

    def failed(self, sequence: Sequence, error: RequestError) -> None: ...


class NobodyFollows:
    """A `SequenceListener` for a loop without tracing."""

    def queued(self, sequence: Sequence, request: InferenceRequest, *, place: int, num_waiting: int) -> str:
        return ""

    def model_loading(self, sequence: Sequence, worker_id: str) -> None:
        pass

    def model_loaded(self, sequence: Sequence, worker_id: str, load_s: float) -> None:
        pass

    def admitted(self, sequence: Sequence, num_cached_tokens: int) -> None:
        pass

    def sampled(self, sequence: Sequence) -> None:
        pass

    def preempted(self, sequence: Sequence) -> None:
        pass

    def worker_lost(self, sequence: Sequence) -> None:
        pass

    def worker_leaves(self, sequence: Sequence) -> None:
        pass

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        pass

    def failed(self, sequence: Sequence, error: RequestError) -> None:
        pass
