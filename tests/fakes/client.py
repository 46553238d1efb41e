"""A client of the scheduler loop that records events and checks that none is missing or repeated."""

from collections import defaultdict
from collections.abc import Sequence as Seq

from pagoda.wire.events import Moved, PromptLogprobs, Started, Tokens
from pagoda.wire.finished import Finished
from pagoda.wire.logprobs import TokenLogprobs
from scheduler.errors import RequestError
from scheduler.queue.events import ClientEvent, Failed


class RecordingClient:
    def __init__(self) -> None:
        self.events: list[ClientEvent] = []
        self.tokens: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        self.prompt_logprobs: defaultdict[str, list[TokenLogprobs]] = defaultdict(list)
        self.started: dict[tuple[str, int], Started] = {}
        self.moved: list[Moved] = []
        self.finished: dict[tuple[str, int], Finished] = {}
        self.failed: dict[str, RequestError] = {}

    def deliver(self, events: Seq[ClientEvent]) -> None:
        for event in events:
            self.events.append(event)
            assert event.request_id not in self.failed, "an event after the request failed"
            if isinstance(event, Failed):
                self.failed[event.request_id] = event.error
                continue
            if isinstance(event, PromptLogprobs):
                self._take_prompt_logprobs(event)
                continue
            key = (event.request_id, event.sample_index)
            assert key not in self.finished, "an event after the sample finished"
            match event:
                case Tokens():
                    assert event.sequence_number == len(self.tokens[key]), "a missing or repeated token"
                    self.tokens[key] += event.token_ids
                case Started():
                    assert key not in self.started
                    self.started[key] = event
                case Moved():
                    self.moved.append(event)
                case Finished():
                    self.finished[key] = event

    def _take_prompt_logprobs(self, event: PromptLogprobs) -> None:
        has_begun = any(tokens for (name, _), tokens in self.tokens.items() if name == event.request_id)
        assert not has_begun, "log-probabilities of a prompt after the first token"
        told = self.prompt_logprobs[event.request_id]
        assert event.start == 1 + len(told), "a missing or repeated token"
        told += event.logprobs
