"""The calls of an answer, read piece by piece as their format describes them."""

import re
from collections.abc import Mapping

from gateway.parsing.braced import BracedReader
from gateway.parsing.call_object import CallObjectReader
from gateway.parsing.json_text import stream_object
from gateway.parsing.open_call import OpenCall
from gateway.parsing.parameters import ParametersReader
from gateway.parsing.part_writer import PartWriter
from gateway.parsing.python_arguments import PythonArgumentsReader
from gateway.parsing.text_reader import NotACallError, Steps, TextReader
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import CallSyntax, Slot

MAX_NAME = 256
MAX_ID = 64
MAX_DIGITS = 9

_DIGITS = re.compile("[0-9]+")
_OWN_ID = re.compile("[A-Za-z0-9_-]+")


class CallReader:
    """A reader of calls. It raises NotACallError where the text is not a call, and OutputEndedError at the end of the output."""

    def __init__(self, syntax: CallSyntax, reader: TextReader, writer: PartWriter, tools: Mapping[str, Tool]) -> None:
        self._syntax = syntax
        self._reader = reader
        self._writer = writer
        self._tools = tools
        self._separator = syntax.separator.strip()
        self._opening = "" if isinstance(syntax.call[0], Slot) else syntax.call[0].strip()
        self._name = re.compile(_name_pattern(syntax))

    def read_calls(self) -> Steps[None]:
        """Read calls after their trigger."""
        syntax = self._syntax
        for text in syntax.begin if syntax.bare else syntax.begin[1:]:
            yield from self._expect(text)
        is_opened = not syntax.begin and not syntax.bare
        while True:
            is_opened = yield from self._read_call(is_opened)
            self._reader.report()
            if not is_opened:
                follows = yield from self._another_follows()
                if not follows:
                    return
                is_opened = follows == self._opening != ""

    def _another_follows(self) -> Steps[str]:
        """Read what is between two calls or after the last one. Return the text that was read if another call follows."""
        ends, reader = self._syntax.end, self._reader
        yield from reader.skip_space()
        begins_calls = self._separator or self._opening
        if not ends:
            if not self._separator:
                return ""  # the next call has a trigger of its own
            found = yield from reader.match(self._separator)
            return self._separator if found else ("{" if self._syntax.bare and self._next_is("{") else "")
        found_text = yield from reader.match_any([text for text in (ends[0].strip(), begins_calls) if text])
        if found_text == ends[0].strip():
            reader.report()
            for text in ends[1:]:
                yield from reader.skip_space()
                yield from reader.match(text.strip())
            reader.report()
            return ""
        if found_text is None and begins_calls:
            yield from reader.expect(ends[0].strip())
        if found_text is None:
            yield from reader.next_character()
        return found_text or "\n"

    def _next_is(self, text: str) -> bool:
        return self._reader.text.startswith(text)

    def _read_call(self, is_opened: bool) -> Steps[bool]:
        """Read one call, whose first text is read if it is opened. Return True if the first text of the next one is read too."""
        call = OpenCall(self._reader, self._writer)
        try:
            return (yield from self._read_pieces(call, 1 if is_opened else 0))
        finally:
            call.end()

    def _read_pieces(self, call: OpenCall, position: int) -> Steps[bool]:
        pieces = self._syntax.call
        while position < len(pieces):
            match pieces[position]:
                case Slot.NAME:
                    yield from self._read_name(call)
                case Slot.INDEX:
                    call.index = yield from self._reader.read_pattern(_DIGITS, MAX_DIGITS)
                case Slot.OBJECT:
                    yield from self._read_objects(call)
                case Slot.PARAMETERS:
                    ending = yield from self._read_parameters(call, position)
                    if ending not in self._endings(position):
                        return True
                    position += 1 + self._endings(position).index(ending)
                case Slot.ARGUMENTS:
                    yield from self._read_json(call, position)
                case Slot.PYTHON_ARGUMENTS:
                    yield from PythonArgumentsReader(self._reader, call).read_arguments()
                case Slot.BRACED:
                    yield from BracedReader(self._reader, call, self._syntax.quote).read_arguments()
                case text:
                    yield from self._expect(text)
            if call.has_begun:
                self._reader.report()
            position += 1
        return False

    def _expect(self, text: str) -> Steps[None]:
        """Read a text of the format. Whitespace around it is free."""
        yield from self._reader.skip_space()
        if core := text.strip():
            yield from self._reader.expect(core)

    def _read_name(self, call: OpenCall) -> Steps[None]:
        yield from self._reader.skip_space()
        call.name = yield from self._reader.read_pattern(self._name, MAX_NAME)
        self._choose_tool(call)
        if marker := self._syntax.id_marker:
            yield from self._reader.skip_space()
            if (yield from self._reader.match(marker)):
                call.own_id = yield from self._reader.read_pattern(_OWN_ID, MAX_ID)

    def _choose_tool(self, call: OpenCall) -> None:
        call.tool = self._tools.get(call.name)
        if self._syntax.bare and call.tool is None:
            raise NotACallError

    def _read_json(self, call: OpenCall, position: int) -> Steps[None]:
        """Read the arguments. If they are missing, they are an empty object."""
        yield from self._reader.skip_space()
        if form := self._syntax.id_form:
            call.own_id = form.replace("{name}", call.name).replace("{index}", call.index)
        if (yield from self._reader.next_character()) == "{":
            yield from stream_object(self._reader, call.begin, call.add_arguments)
        elif endings := self._endings(position):
            yield from self._peek(endings[0])
            call.begin()
            call.add_arguments("{}")
        else:
            raise NotACallError

    def _peek(self, text: str) -> Steps[None]:
        """Raise NotACallError or OutputEndedError unless `text` comes next. It is not read."""
        while not self._reader.text.startswith(text):
            if not text.startswith(self._reader.text):
                raise NotACallError
            yield from self._reader.more()

    def _read_objects(self, call: OpenCall) -> Steps[None]:
        """Read an object, or several, as some models write them between one pair of markers."""
        yield from self._reader.skip_space()
        in_list = not self._syntax.bare and (yield from self._reader.match("["))
        yield from self._read_object(call)
        while not (self._syntax.bare or self._syntax.end):  # else the format itself describes several objects
            yield from self._reader.skip_space()
            yield from self._reader.match(",")
            yield from self._reader.skip_space()
            if not self._next_is("{"):
                break
            self._reader.report()
            another = OpenCall(self._reader, self._writer)
            try:
                yield from self._read_object(another)
            finally:
                another.end()
        if in_list:
            yield from self._reader.match("]")

    def _read_object(self, call: OpenCall) -> Steps[None]:
        yield from CallObjectReader(
            self._reader,
            call,
            name_key=self._syntax.name_key,
            arguments_key=self._syntax.arguments_key,
            only_known_keys=self._syntax.bare,
            choose_tool=self._choose_tool,
        ).read_object()

    def _endings(self, position: int) -> list[str]:
        """Return the texts of the call after a slot."""
        return [text.strip() for text in self._syntax.call[position + 1 :] if not isinstance(text, Slot)]

    def _read_parameters(self, call: OpenCall, position: int) -> Steps[str]:
        # A model that forgets how a call ends begins the next one.
        endings = dict.fromkeys((*self._endings(position), *self._syntax.end[:1], self._opening))
        parameters = ParametersReader(self._reader, call, self._syntax.parameter)
        return (yield from parameters.read_parameters([text for text in endings if text]))


def _name_pattern(syntax: CallSyntax) -> str:
    """Return the pattern of a name that is not written in quotes. It ends before the text that follows it in a call."""
    excluded = "<>{}()[]\"',;="
    if Slot.NAME in syntax.call:
        after = syntax.call[syntax.call.index(Slot.NAME) + 1]
        excluded += "" if isinstance(after, Slot) else after.strip()[:1]
    return rf"[^\s\ud800-\udfff{re.escape(excluded)}]+"
