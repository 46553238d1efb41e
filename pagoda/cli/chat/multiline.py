'''What a user types before it counts as a whole: a line, or lines between `"""`.'''

from dataclasses import dataclass

from pagoda.cli.chat.line_reader import LineReader

PROMPT, CONTINUED = ">>> ", "... "
_QUOTE = '"""'
_QUOTABLE = ("", "/set system ")
"""What may stand before an opening quote."""


@dataclass(frozen=True, slots=True)
class Entry:
    text: str
    is_command: bool


def read_entry(reader: LineReader) -> Entry:
    """Raises KeyboardInterrupt and EOFError as the reader does; what was typed before is dropped."""
    line = reader.read(PROMPT)
    before, quote, rest = line.partition(_QUOTE)
    if not quote or before not in _QUOTABLE:
        return Entry(line.strip(), line.startswith("/"))
    while not rest.rstrip().endswith(_QUOTE):
        rest += "\n" + reader.read(CONTINUED)
    return Entry(before + rest.rstrip().removesuffix(_QUOTE).strip("\n"), bool(before))
