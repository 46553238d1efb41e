"""A tokenizer whose tokens are any bytes, for outputs that are cut anywhere, and what a parser makes of such an output."""

import re
from collections.abc import Iterable, Sequence
from typing import cast

from gateway.parsing.output_parser import OutputParser
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import OutputFormat
from pagoda.text.tokenizer import Tokenizer
from pagoda.text.vocabulary import Encoders, Vocabulary


class PieceTokenizer(Tokenizer):
    """A tokenizer with the control tokens of the given names. Any other text becomes a token when it is asked for."""

    def __init__(self, control: Sequence[str] = ()) -> None:
        self._pieces: list[bytes] = [b""] * len(control)
        self._ids: dict[bytes, int] = {}
        vocabulary = Vocabulary(
            encoders=cast(Encoders, None),
            token_bytes=self._pieces,
            special_tokens={name: index for index, name in enumerate(control)},
            bos_token_id=None,
            add_bos=False,
        )
        super().__init__(vocabulary, vocab_size=1 << 20, eos_token_ids=())
        self._control = re.compile("|".join(map(re.escape, control)) or "(?!)")

    def id_of(self, piece: bytes) -> int:
        """Return the token of these bytes."""
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]

    def cut(self, output: str, sizes: Iterable[int] = ()) -> list[int]:
        """Return tokens of these numbers of bytes, the last size for the rest. The names of control tokens are control tokens."""
        ids: list[int] = []
        remaining = iter(sizes)
        size = next(remaining, 1)
        position = 0
        for found in [*self._control.finditer(output), None]:
            data = output[position : found.start() if found else None].encode()
            while data:
                ids.append(self.id_of(data[:size]))
                data = data[size:]
                size = next(remaining, size)
            if found:
                ids.append(self.special_tokens[found.group()])
                position = found.end()
        return ids


def parse(
    output_format: OutputFormat,
    tokenizer: Tokenizer,
    ids: Iterable[int],
    *,
    tools: Sequence[Tool] = (),
    reasoning: ReasoningStart = ReasoningStart.MAY_OPEN,
    skip_special_tokens: bool = True,
) -> list[AnswerPart]:
    """Return the parts of an output, with neighbours of one kind joined. The ids of calls are replaced by their numbers."""
    parser = OutputParser(
        output_format, tokenizer, reasoning=reasoning, tools=tools, skip_special_tokens=skip_special_tokens
    )
    parts = [part for token_id in ids for part in parser.add_token(token_id)] + parser.finish()
    return joined(parts)


def joined(parts: Iterable[AnswerPart]) -> list[AnswerPart]:
    """Return the parts with neighbours of one kind joined, and the ids of calls replaced by their numbers."""
    whole: list[AnswerPart] = []
    for part in parts:
        match whole[-1] if whole else None, part:
            case ContentPart(before), ContentPart(text):
                whole[-1] = ContentPart(before + text)
            case ReasoningPart(before), ReasoningPart(text):
                whole[-1] = ReasoningPart(before + text)
            case CallArguments(index, before), CallArguments(same, text) if index == same:
                whole[-1] = CallArguments(index, before + text)
            case _, CallBegan(index, _, name):
                whole.append(CallBegan(index, str(index), name))
            case _:
                whole.append(part)
    return whole
