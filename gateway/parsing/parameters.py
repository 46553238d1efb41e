"""Parameters that are written one by one, each between texts of its own."""

import json
import re
from collections.abc import Sequence

from gateway.parsing.json_text import escaped
from gateway.parsing.markers import MarkerSet
from gateway.parsing.open_call import OpenCall
from gateway.parsing.text_reader import NotACallError, OutputEndedError, Steps, TextReader
from gateway.parsing.value_types import to_json
from gateway.prompts.parameter_types import parameter_types
from pagoda.models.output_formats.description import Piece, Slot

MAX_KEY = 256

_KEY = re.compile(r"""[^\n<>"]+""")
_TEXT = frozenset({"string"})


class ParametersReader:
    """A reader of all parameters of one call."""

    def __init__(self, reader: TextReader, call: OpenCall, pieces: Sequence[Piece]) -> None:
        """Take the pieces of one parameter. The first is a text."""
        self._reader = reader
        self._call = call
        self._pieces = pieces
        self._opening = str(pieces[0]).strip()
        self._num_parameters = 0

    def read_parameters(self, endings: Sequence[str]) -> Steps[str]:
        """Read up to one of the texts that end the call, and return it. Raises NotACallError and OutputEndedError.

        Other text between parameters is stray: the model forgot a marker, or wrote a remark.
        """
        markers = MarkerSet((self._opening, *endings))
        while True:
            ending = yield from self._read_to(markers)
            self._call.begin()
            if ending != self._opening:
                break
            yield from self._read_parameter()
            self._reader.report()
        self._call.add_arguments("}" if self._num_parameters else "{}")
        return ending

    def _read_to(self, markers: MarkerSet) -> Steps[str]:
        """Read one of the markers, and what is before it. Before the call has begun, only whitespace may be."""
        yield from self._reader.skip_space()
        stray: list[str] = []
        while True:
            length, marker = markers.find(self._reader.text)
            if length and not self._call.has_begun:
                raise NotACallError
            stray.append(self._reader.take(length))
            if marker is not None:
                break
            yield from self._reader.more()
        self._reader.take(len(marker))
        self._reader.report()
        self._call.stray += "".join(stray)
        return marker

    def _read_parameter(self) -> Steps[None]:
        key, types = "", frozenset[str]()
        for index, piece in enumerate(self._pieces[1:], start=1):
            match piece:
                case Slot.KEY:
                    key = (yield from self._reader.read_pattern(_KEY, MAX_KEY)).strip()
                    types = parameter_types(self._call.tool.parameters if self._call.tool else {}, key)
                case Slot.IS_STRING:
                    is_text = yield from self._reader.match_any(("true", "false"))
                    # A value that is no string may be anything else in JSON.
                    types = _TEXT if is_text == "true" else types - _TEXT
                case Slot.VALUE:
                    self._begin_value(key)
                    yield from self._read_value(str(self._pieces[index + 1]), types)
                case str(text) if text.strip():
                    if index > 1 and self._pieces[index - 1] is not Slot.VALUE:
                        yield from self._reader.skip_space()
                    if self._pieces[index - 1] is not Slot.VALUE:
                        yield from self._reader.expect(text.strip())
                    if self._pieces[index + 1 : index + 2] == (Slot.VALUE,):
                        yield from self._skip_exactly(text[len(text.rstrip()) :])

    def _begin_value(self, key: str) -> None:
        self._call.add_arguments(f"{', ' if self._num_parameters else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._num_parameters += 1
        self._reader.report()

    def _skip_exactly(self, space: str) -> Steps[None]:
        """Read the whitespace between a text and the value. Any more belongs to the value."""
        if space:
            yield from self._reader.match(space)

    def _read_value(self, ending: str, types: frozenset[str]) -> Steps[None]:
        """Read the value and the text after it. A string is reported as it arrives, another value at its end."""
        space = ending[: len(ending) - len(ending.lstrip())]
        markers = MarkerSet((ending.strip(), space + ending.strip()))
        streamed = types == _TEXT
        if streamed:
            self._call.add_arguments('"')
        texts: list[str] = []
        while True:
            length, marker = markers.find(self._reader.text)
            if streamed:
                self._call.add_arguments(escaped(self._reader.take_reported(length)))
            else:
                texts.append(self._reader.take(length))
            if marker is not None:
                break
            if self._reader.has_ended:
                # The rest may be the beginning of the text after the value.
                if streamed:
                    self._call.add_arguments(escaped(self._reader.take_reported(len(self._reader.text))))
                else:
                    self._call.add_arguments("".join(texts) + self._reader.text)
                    self._reader.take(len(self._reader.text))
                    self._reader.report()
                raise OutputEndedError
            yield
        self._reader.take(len(marker))
        self._call.add_arguments('"' if streamed else to_json("".join(texts), types))
