"""Keyword arguments in Python's syntax that arrive in pieces."""

import json
import re

from gateway.parsing.extent import Extent, read_extent
from gateway.parsing.open_call import OpenCall
from gateway.parsing.python_values import python_to_json
from gateway.parsing.text_reader import Steps, TextReader

MAX_KEY = 256

_KEY = re.compile(r"\s*[^\W\d]\w*")


class PythonArgumentsReader:
    """A reader of the arguments of one call, up to the closing parenthesis, which is not read."""

    def __init__(self, reader: TextReader, call: OpenCall) -> None:
        self._reader = reader
        self._call = call

    def read_arguments(self) -> Steps[None]:
        """Read the arguments. Raises NotACallError and OutputEndedError."""
        reader, call = self._reader, self._call
        num_arguments = 0
        while True:
            yield from reader.skip_space()
            if (yield from reader.next_character()) == ")":
                break
            key = (yield from reader.read_pattern(_KEY, MAX_KEY)).strip()
            yield from reader.skip_space()
            yield from reader.expect("=")
            call.begin_object()
            value = yield from read_extent(reader, Extent(quotes=("'", '"'), ends=",)", has_escapes=True))
            # What is no literal is kept as a text, so that the other arguments and calls are not lost.
            converted = python_to_json(value) or json.dumps(value.strip(), ensure_ascii=False)
            call.add_arguments(f"{', ' if num_arguments else ''}{json.dumps(key, ensure_ascii=False)}: {converted}")
            reader.report()
            num_arguments += 1
            yield from reader.match(",")
        call.begin_object()
        call.add_arguments("}")
