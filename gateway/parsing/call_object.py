"""A call that is written as one JSON object, with its name and its arguments under keys."""

import json
from collections.abc import Callable

from gateway.parsing.json_text import read_json, read_json_string, stream_object
from gateway.parsing.open_call import OpenCall
from gateway.parsing.text_reader import NotACallError, Steps, TextReader

MAX_KEY = 256
MAX_NAME = 256

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
"""Keys that models use for the arguments, whichever the format names."""
OWN_KEYS = frozenset({"type", "id", "tool_call_id"})
"""Further keys of OpenAI's form, which models repeat. Their values say nothing."""


class CallObjectReader:
    """A reader of one object. `choose_tool` gets the call when its name is known; it may raise NotACallError."""

    def __init__(
        self,
        reader: TextReader,
        call: OpenCall,
        *,
        name_key: str,
        arguments_key: str,
        only_known_keys: bool,
        choose_tool: Callable[[OpenCall], None],
    ) -> None:
        self._reader = reader
        self._call = call
        self._name_keys = frozenset({"name", name_key})
        self._argument_keys = ARGUMENT_KEYS | {arguments_key}
        self._only_known_keys = only_known_keys
        self._choose_tool = choose_tool
        self._held_arguments: str | None = None
        """Arguments before the name."""
        self._has_arguments = False

    def read_object(self) -> Steps[None]:
        """Read the object. Raises NotACallError and OutputEndedError."""
        yield from self._read_members()
        if not self._call.name:
            raise NotACallError
        if not self._has_arguments:
            self._call.begin()
            self._call.add_arguments("{}")

    def _read_members(self) -> Steps[None]:
        reader = self._reader
        yield from reader.expect("{")
        while True:
            yield from reader.skip_space()
            if (yield from reader.match("}")):
                return
            key = yield from read_json_string(reader, MAX_KEY)
            yield from reader.skip_space()
            yield from reader.expect(":")
            yield from reader.skip_space()
            yield from self._read_member(key)
            yield from reader.skip_space()
            if not (yield from reader.match(",")):
                yield from reader.expect("}")
                return

    def _read_member(self, key: str) -> Steps[None]:
        call = self._call
        if key in self._name_keys and not call.name:
            call.name = yield from read_json_string(self._reader, MAX_NAME)
            self._choose_tool(call)
            if self._held_arguments is not None:
                self._report(self._held_arguments)
        elif key in self._argument_keys and not self._has_arguments and self._held_arguments is None:
            yield from self._read_arguments()
        elif key == "function" and not call.name and (yield from self._reader.next_character()) == "{":
            yield from self._read_members()  # OpenAI's form
        else:
            if self._only_known_keys and key not in OWN_KEYS:
                raise NotACallError
            value = yield from read_json(self._reader)
            if key not in OWN_KEYS:
                self._call.add_stray(f"{json.dumps(key, ensure_ascii=False)}: {value}\n")

    def _read_arguments(self) -> Steps[None]:
        first = yield from self._reader.next_character()
        if first == "{" and self._call.name:
            self._has_arguments = True
            yield from stream_object(self._reader, self._call.begin, self._call.add_arguments)
            return
        text = yield from read_json(self._reader)
        arguments = _object_text(text)
        if arguments is None:
            raise NotACallError
        if self._call.name:
            self._report(arguments)
        else:
            self._held_arguments = arguments

    def _report(self, arguments: str) -> None:
        self._has_arguments = True
        self._call.begin()
        self._call.add_arguments(arguments)


def _object_text(text: str) -> str | None:
    """Return the JSON object that the text is, or that is written in it as a string. None if there is none."""
    if text == "null":
        return "{}"
    if text.startswith('"'):
        try:
            text = json.loads(text).strip() or "{}"
            text.encode()  # refuses lone surrogates
            return text if isinstance(json.loads(text), dict) else None
        except (ValueError, RecursionError):
            return None
    return text if text.startswith("{") else None
