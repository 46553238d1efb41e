"""The outer structure of an output: reasoning, text of the answer, and calls."""

from collections.abc import Mapping

from gateway.parsing.call_reader import CallReader
from gateway.parsing.markers import MarkerSet
from gateway.parsing.part_writer import MAX_HELD_SPACE, PartWriter, TextRun
from gateway.parsing.parts import ContentPart, ReasoningPart
from gateway.parsing.syntax import closing_markers
from gateway.parsing.text_reader import NotACallError, OutputEndedError, Steps, TextReader
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import OutputFormat

_LINE_ENDS = "\r\n"
_SPACE = " \t\r\n"


class AnswerReader:
    """A reader of a whole output. What is not a call in the model's format is text."""

    def __init__(
        self,
        output_format: OutputFormat,
        reader: TextReader,
        writer: PartWriter,
        *,
        reasoning: ReasoningStart,
        tools: Mapping[str, Tool],
    ) -> None:
        self._format = output_format
        self._reader = reader
        self._writer = writer
        self._start = reasoning if output_format.reasoning else ReasoningStart.NONE
        self._calls = output_format.calls if tools else None
        self._call_readers: dict[str, list[CallReader]] = {}
        """Readers of calls by the text that begins them; an empty text if nothing does."""
        for syntax in (self._calls, *output_format.other_calls) if self._calls else ():
            call_reader = CallReader(syntax, reader, writer, tools)
            self._call_readers.setdefault(syntax.trigger, []).append(call_reader)
        self._triggers = tuple(filter(None, self._call_readers))
        self._stray: set[str] = set()
        """Markers of which a next one is dropped, because a broken call or an ended reasoning has left them."""
        self._run = TextRun(writer, ContentPart)
        self.is_reasoning = self._start is ReasoningStart.OPEN
        self.is_waiting = False
        """True while text passes through as it is, and no marker may have begun."""

    @property
    def plain_kind(self) -> type[ContentPart] | type[ReasoningPart] | None:
        """The kind of the parts that plain text becomes; None if the text must be looked at."""
        return self._run.kind if self.is_waiting and self._run.is_plain else None

    def read(self) -> Steps[None]:
        """Read the output to its end."""
        is_open, space = self.is_reasoning, ""
        if self._start is not ReasoningStart.NONE:
            # Some models repeat the marker that the prompt ends with.
            begins, space = yield from self._read_open()
            is_open = is_open or begins
        if is_open:
            yield from self._read_reasoning(space)
        else:
            # A grammar allows line breaks here, as after reasoning, and they are no part of what the client asked for.
            self._begin_answer(leading="" if self._start is ReasoningStart.NONE else _LINE_ENDS)
            self._run.add(space)
        yield from self._read_bare_calls()
        yield from self._read_answer()

    def _read_open(self) -> Steps[tuple[bool, str]]:
        """Read the marker that opens the reasoning, after whitespace. Return whether it is there, else also the whitespace."""
        assert self._format.reasoning is not None
        length = 0
        while True:
            text = self._reader.text
            space = min(len(text) - len(text.lstrip(_SPACE)), MAX_HELD_SPACE - length)
            self._reader.take(space)
            length += space
            if self._reader.text or self._reader.has_ended:
                break
            yield
        space_before = self._reader.report()
        is_open = yield from self._reader.match(self._format.reasoning.open.strip())
        self._reader.report()
        return is_open, "" if is_open else space_before

    def _read_reasoning(self, beginning: str = "") -> Steps[None]:
        assert self._format.reasoning is not None
        self.is_reasoning = True
        self._run = TextRun(self._writer, ReasoningPart, leading=_LINE_ENDS, trailing=_LINE_ENDS)
        self._run.add(beginning)
        close = self._format.reasoning.close.strip()
        inner = self._triggers if self._calls and self._calls.in_reasoning else ()
        markers = MarkerSet((close, *inner))
        while (marker := (yield from self._read_text(markers))) is not None:
            if marker == close:
                self._reader.report()
                self.is_reasoning = False
                self._begin_answer(leading=_LINE_ENDS)
                return
            if (yield from self._read_calls(marker)):
                self._stray.add(close)
                return

    def _begin_answer(self, leading: str = "") -> None:
        trailing = _SPACE if self._triggers else ""
        self._run = TextRun(self._writer, ContentPart, leading=leading, trailing=trailing)

    def _read_answer(self) -> Steps[None]:
        reasoning = self._format.reasoning
        opened = reasoning.open.strip() if reasoning and reasoning.again else ""
        while True:
            markers = MarkerSet((*self._triggers, opened, *self._format.answer_markers, *self._stray))
            marker = yield from self._read_text(markers)
            if marker is None:
                return
            if marker in self._triggers:
                yield from self._read_calls(marker)
            elif marker == opened:
                self._reader.report()
                yield from self._read_reasoning()
            else:
                self._reader.report()
                self._stray.discard(marker)
                self._run.drop_held()
                yield from self._read_bare_calls()

    def _read_bare_calls(self) -> Steps[None]:
        """Read calls that no text announces. They can only be at the beginning of the answer, or after a marker."""
        if "" in self._call_readers:
            yield from self._read_calls("")

    def _read_text(self, markers: MarkerSet) -> Steps[str | None]:
        """Read text up to a marker, which is read but not reported, and return it; None at the end of the output."""
        while True:
            length, marker = markers.find(self._reader.text)
            if length:
                self._run.add(self._reader.take_reported(length))
            if marker is not None:
                return self._reader.take(len(marker))
            if self._reader.has_ended:
                self._run.add(self._reader.take_reported(len(self._reader.text)))
                self._run.release_held()
                return None
            self.is_waiting = not self._reader.text
            yield
            self.is_waiting = False

    def _read_calls(self, trigger: str) -> Steps[bool]:
        """Read calls after their trigger, and return whether there are any. What is not a call is text."""
        assert self._calls is not None
        num_calls, run = self._writer.num_calls, self._run
        self._reader.report()
        call_readers = self._call_readers[trigger]
        for call_reader in call_readers:
            is_broken = False
            try:
                yield from call_reader.read_calls()
            except NotACallError:
                is_broken = True
            except OutputEndedError:
                pass
            if self._writer.num_calls > num_calls or not is_broken:
                break
            if call_reader is not call_readers[-1]:
                self._reader.unread()
        rest = self._reader.report()
        if self._writer.num_calls == num_calls:
            run.add(trigger + rest)
            return False
        self.is_reasoning = False
        self._begin_answer(leading=_SPACE)
        self._run.add(rest)
        if is_broken:
            self._stray |= closing_markers(self._calls)
        return True
