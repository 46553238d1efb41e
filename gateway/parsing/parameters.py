"""Parameters that are written one by one, each between texts of its own."""

import json
import re
from collections.abc import Mapping, Sequence

from gateway.parsing.json_scanner import escaped
from gateway.parsing.markers import MarkerSet
from gateway.parsing.open_call import OpenCall
from gateway.parsing.text_reader import NotACallError, OutputEndedError, Steps, TextReader
from gateway.parsing.value_types import beginning_of_json, to_json
from gateway.prompts.parameter_types import parameter_types
from pagoda.models.output_formats.description import Piece, Slot

MAX_KEY = 256
MAX_KEYS = 64
"""Number of parameters by which a value is ended that has no end of its own."""

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
        self._schema = call.tool.parameters if call.tool else {}
        self._keys: set[str] = set()
        self._endings: Sequence[str] = ()

    def read_parameters(self, endings: Sequence[str]) -> Steps[str]:
        """Read up to one of the texts that end the call, and return it. Raises NotACallError and OutputEndedError.

        Other text between parameters is stray: the model forgot a marker, or wrote a remark.
        """
        markers = MarkerSet((self._opening, *endings))
        self._endings = endings
        while True:
            ending = yield from self._read_to(markers)
            self._call.begin_object()
            if ending != self._opening:
                break
            yield from self._read_parameter()
            self._reader.report()
        self._call.add_arguments("}")
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
        if any(stray):
            self._call.add_stray("".join(stray))
        return marker

    def _read_parameter(self) -> Steps[None]:
        key, types = "", frozenset[str]()
        before: Piece = ""
        for piece, after in zip(self._pieces[1:], (*self._pieces[2:], ""), strict=True):
            match piece:
                case Slot.KEY:
                    key = (yield from self._reader.read_pattern(_KEY, MAX_KEY)).strip()
                    types = parameter_types(self._schema, key)
                case Slot.IS_STRING:
                    is_text = yield from self._reader.match_any(("true", "false"))
                    # A value that is no string may be anything else in JSON.
                    types = _TEXT if is_text == "true" else types - _TEXT
                case Slot.VALUE:
                    self._begin_value(key)
                    yield from self._read_value(str(after), types)
                case text if before is not Slot.VALUE:
                    yield from self._reader.skip_space()
                    yield from self._reader.expect(text.strip())
                    if after is Slot.VALUE and (space := text[len(text.rstrip()) :]):
                        yield from self._reader.match(space)  # any more belongs to the value
            before = piece

    def _begin_value(self, key: str) -> None:
        self._call.add_arguments(f"{', ' if self._keys else ''}{json.dumps(key, ensure_ascii=False)}: ")
        self._keys.add(key)
        self._reader.report()

    def _read_value(self, ending: str, types: frozenset[str]) -> Steps[None]:
        """Read the value and the text after it. A string is reported as it arrives, another value at its end."""
        space = ending[: len(ending) - len(ending.lstrip())]
        ends = (ending.strip(), space + ending.strip())
        markers = MarkerSet((*ends, *(space + text for text in self._texts_of_a_forgotten_end())))
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
                    self._call.add_arguments(beginning_of_json("".join(texts) + self._reader.text))
                    self._reader.take(len(self._reader.text))
                    self._reader.report()
                raise OutputEndedError
            yield
        if marker in ends:
            self._reader.take(len(marker))
        self._call.add_arguments('"' if streamed else to_json("".join(texts), types))

    def _texts_of_a_forgotten_end(self) -> list[str]:
        """Return the texts that end a value although its own end is missing: the next parameter, and the end of the call."""
        before = self._pieces[: self._pieces.index(Slot.VALUE)]
        properties = self._schema.get("properties")
        keys = [key for key in properties if key not in self._keys] if isinstance(properties, Mapping) else []
        texts = ["".join(key if piece is Slot.KEY else piece for piece in before).strip() for key in keys[:MAX_KEYS]]
        return ([] if Slot.IS_STRING in before else texts) + ["\n".join(self._endings[:2])]
