"""The open requests: those that were accepted and have not ended, with their sequences and undelivered events."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from pagoda.wire.inference_request import InferenceRequest
from scheduler.clock import TimerHandle
from scheduler.queue.events import Client, ClientEvent
from scheduler.steps.sequence import Sequence


@dataclass(slots=True, eq=False, kw_only=True)
class OpenRequest:
    """An accepted request with its open samples."""

    request: InferenceRequest
    client: Client
    sequences: dict[int, Sequence]
    """Sequences of the open samples, by sample index."""
    deadline: TimerHandle | None = None
    """Timer of the request's deadline, cancelled when the last sample ends."""


class OpenRequests:
    def __init__(self) -> None:
        self._by_name: dict[tuple[Client, str], OpenRequest] = {}
        self._by_sequence: dict[int, OpenRequest] = {}
        self._outbox: defaultdict[Client, list[ClientEvent]] = defaultdict(list)
        self._on_empty: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._by_name)

    def add_request(self, opened: OpenRequest) -> None:
        self._by_name[opened.client, opened.request.request_id] = opened
        for sequence in opened.sequences.values():
            self._by_sequence[sequence.sequence_id] = opened

    def find_request(self, client: Client, request_id: str) -> OpenRequest | None:
        return self._by_name.get((client, request_id))

    def request_of(self, sequence: Sequence) -> OpenRequest:
        return self._by_sequence[sequence.sequence_id]

    def requests_of_client(self, client: Client) -> list[OpenRequest]:
        return [opened for (owner, _), opened in self._by_name.items() if owner is client]

    def remove_sequence(self, sequence: Sequence) -> None:
        """Remove a sequence that has ended. The last one also closes the request and cancels its deadline."""
        opened = self._by_sequence.pop(sequence.sequence_id)
        del opened.sequences[sequence.sample_index]
        if not opened.sequences:
            del self._by_name[opened.client, opened.request.request_id]
            if opened.deadline is not None:
                opened.deadline.cancel()
        if not self._by_name:
            self._on_empty()

    def call_when_empty(self, on_empty: Callable[[], object]) -> None:
        """Call `on_empty` when the last request has ended, perhaps immediately."""
        self._on_empty = on_empty
        if not self._by_name:
            on_empty()

    def post_event(self, sequence: Sequence, event: ClientEvent) -> None:
        """Add an event for the sequence's client. The next `deliver_events` delivers it."""
        self._outbox[self._by_sequence[sequence.sequence_id].client].append(event)

    def deliver_events(self) -> None:
        """Deliver all events, with one call per client."""
        outbox, self._outbox = self._outbox, defaultdict(list)
        for client, events in outbox.items():
            client.deliver(events)
