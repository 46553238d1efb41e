"""The output of a response: items made from the parts of an answer, and an event for each change of them."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from gateway.answers.logprobs import token_object
from gateway.answers.text_events import TextDelta
from gateway.parsing.parts import CallArguments, CallBegan, ContentPart, ReasoningPart
from gateway.responses.ids import output_item_id

JSONObject = dict[str, Any]
COMPLETED, IN_PROGRESS, INCOMPLETE = "completed", "in_progress", "incomplete"


class OutputItem(ABC):
    """An item of an output while it is generated."""

    kind: ClassVar[str]

    def __init__(self, response_id: str, index: int) -> None:
        self._id = output_item_id(response_id, self.kind, index)
        self._index = index
        self._texts: list[str] = []
        self.status = IN_PROGRESS

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def begin(self) -> Iterator[JSONObject]:
        """Yield the events that begin the item."""
        yield {"type": "response.output_item.added", "output_index": self._index, "item": self._object(is_begun=False)}

    def end(self, status: str) -> Iterator[JSONObject]:
        """Yield the events that end the item."""
        self.status = status
        yield {"type": "response.output_item.done", "output_index": self._index, "item": self.as_json()}

    def as_json(self) -> JSONObject:
        """Return the item as it is now."""
        return self._object(is_begun=True)

    @abstractmethod
    def _object(self, *, is_begun: bool) -> JSONObject:
        """Return the item, without any content if it has not begun."""

    def _event(self, kind: str, **fields: Any) -> JSONObject:
        return {"type": kind, "item_id": self._id, "output_index": self._index, **fields}


class _TextItem(OutputItem):
    """An item with one part, which is a text."""

    part_type: ClassVar[str]

    def begin(self) -> Iterator[JSONObject]:
        yield from super().begin()
        yield self._event("response.content_part.added", content_index=0, part=self._part("", ()))

    def add_text(self, text: str, logprobs: Sequence[JSONObject]) -> JSONObject:
        """Return the event of more text."""
        self._texts.append(text)
        return self._event(f"response.{self.part_type}.delta", content_index=0, delta=text, **self._further(logprobs))

    def end(self, status: str) -> Iterator[JSONObject]:
        logprobs = self._all_logprobs()
        yield self._event(f"response.{self.part_type}.done", content_index=0, text=self.text, **self._further(logprobs))
        yield self._event("response.content_part.done", content_index=0, part=self._part(self.text, logprobs))
        yield from super().end(status)

    def _all_logprobs(self) -> Sequence[JSONObject]:
        return ()

    def _further(self, logprobs: Sequence[JSONObject]) -> JSONObject:
        """Return the fields of an event besides its text."""
        return {}

    @abstractmethod
    def _part(self, text: str, logprobs: Sequence[JSONObject]) -> JSONObject: ...

    def _content(self, *, is_begun: bool) -> list[JSONObject]:
        return [self._part(self.text, self._all_logprobs())] if is_begun else []


class MessageItem(_TextItem):
    """A message of the assistant."""

    kind = "message"
    part_type = "output_text"

    def __init__(self, response_id: str, index: int) -> None:
        super().__init__(response_id, index)
        self._logprobs: list[JSONObject] = []

    def add_text(self, text: str, logprobs: Sequence[JSONObject]) -> JSONObject:
        self._logprobs += logprobs
        return super().add_text(text, logprobs)

    def _all_logprobs(self) -> Sequence[JSONObject]:
        return self._logprobs

    def _further(self, logprobs: Sequence[JSONObject]) -> JSONObject:
        return {"logprobs": list(logprobs)}

    def _part(self, text: str, logprobs: Sequence[JSONObject]) -> JSONObject:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}

    def _object(self, *, is_begun: bool) -> JSONObject:
        return {
            "id": self._id,
            "type": self.kind,
            "status": self.status,
            "role": "assistant",
            "content": self._content(is_begun=is_begun),
        }


class ReasoningItem(_TextItem):
    """The reasoning before an answer or a call."""

    kind = "reasoning"
    part_type = "reasoning_text"

    def _part(self, text: str, logprobs: Sequence[JSONObject]) -> JSONObject:
        return {"type": "reasoning_text", "text": text}

    def _object(self, *, is_begun: bool) -> JSONObject:
        return {
            "id": self._id,
            "type": self.kind,
            "status": self.status,
            "summary": [],
            "content": self._content(is_begun=is_begun),
        }


class CallItem(OutputItem):
    """A call of a function."""

    kind = "function_call"

    def __init__(self, response_id: str, index: int, begun: CallBegan) -> None:
        super().__init__(response_id, index)
        self.call_index = begun.index
        self._call_id = begun.id
        self._name = begun.name

    def add_arguments(self, text: str) -> JSONObject:
        """Return the event of more arguments."""
        self._texts.append(text)
        return self._event("response.function_call_arguments.delta", delta=text)

    def end(self, status: str) -> Iterator[JSONObject]:
        yield self._event("response.function_call_arguments.done", name=self._name, arguments=self.text)
        yield from super().end(status)

    def _object(self, *, is_begun: bool) -> JSONObject:
        return {
            "id": self._id,
            "type": self.kind,
            "status": self.status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self.text,
        }


TextItemT = TypeVar("TextItemT", MessageItem, ReasoningItem)


class Output:
    """The items of a response's output. Events have no sequence numbers yet."""

    def __init__(self, response_id: str, *, hides_reasoning: bool = False) -> None:
        self._response_id = response_id
        self._hides_reasoning = hides_reasoning
        self._items: list[OutputItem] = []

    def as_json(self) -> list[JSONObject]:
        """Return the items as they are now."""
        return [item.as_json() for item in self._items]

    def add_delta(self, delta: TextDelta) -> Iterator[JSONObject]:
        """Yield the events of what is new in the answer."""
        # The log-probabilities of reasoning and calls are not shown.
        logprobs = list(map(token_object, delta.logprobs))
        for part in delta.answer_parts:
            match part:
                case ContentPart(text):
                    message = yield from self._current(MessageItem)
                    yield message.add_text(text, logprobs)
                    logprobs = []
                case ReasoningPart(text) if not self._hides_reasoning:
                    reasoning = yield from self._current(ReasoningItem)
                    yield reasoning.add_text(text, ())
                case CallBegan():
                    yield from self._begin(CallItem(self._response_id, len(self._items), part))
                case CallArguments(text=text):
                    call = self._items[-1]
                    assert isinstance(call, CallItem) and call.call_index == part.index, "a call's parts come together"
                    yield call.add_arguments(text)

    def finish(self, *, is_cut: bool) -> Iterator[JSONObject]:
        """Yield the events that end the output. `is_cut` is True if a limit ended it. An empty answer is an empty message."""
        if not self._items:
            yield from self._begin(MessageItem(self._response_id, 0))
        yield from self._items[-1].end(INCOMPLETE if is_cut else COMPLETED)

    def abandon(self) -> None:
        """Mark the last item as incomplete, because the response failed or was cancelled."""
        for item in self._items:
            if item.status == IN_PROGRESS:
                item.status = INCOMPLETE

    def _current(self, kind: type[TextItemT]) -> Generator[JSONObject, None, TextItemT]:
        """Return the last item if it is of this kind, or a new one, whose first events are yielded."""
        if self._items and isinstance(self._items[-1], kind):
            return self._items[-1]
        item = kind(self._response_id, len(self._items))
        yield from self._begin(item)
        return item

    def _begin(self, item: OutputItem) -> Iterator[JSONObject]:
        if self._items:
            yield from self._items[-1].end(COMPLETED)
        self._items.append(item)
        yield from item.begin()
