"""A tokenizer of bytes, a few longer pieces, and control tokens of any names, for grammars and parsers of output formats."""

from collections.abc import Sequence
from typing import Any, cast

from pagoda.text.tokenizer import Tokenizer
from pagoda.text.vocabulary import Encoders, Vocabulary

PIECES = ('{"', '":', '", "', '"}', "}\n", ">\n", "\n<", "</", "tool", "_call", "name", " 1")
END = "<end>"


class ByteTokenizer(Tokenizer):
    """Token ids are bytes, then pieces, then the control tokens, then the end of a sequence."""

    def __init__(self, control: Sequence[str] = (), pieces: Sequence[str] = PIECES) -> None:
        texts = [bytes([byte]) for byte in range(256)] + [piece.encode() for piece in pieces]
        names = [*control, END]
        super().__init__(
            Vocabulary(
                encoders=cast(Encoders, None),
                token_bytes=[*texts, *(b"" for _ in names)],
                special_tokens={name: len(texts) + index for index, name in enumerate(names)},
                bos_token_id=None,
                add_bos=False,
            ),
            vocab_size=len(texts) + len(names),
            eos_token_ids=[len(texts) + len(control)],
        )
        self._by_text = {text: token_id for token_id, text in enumerate(texts)}
        self._longest = max(map(len, texts))

    def encode(self, text: str, *, parse_control_tokens: bool = True, **options: Any) -> list[int]:
        """Return the longest pieces from left to right."""
        ids, data = list[int](), text.encode()
        names = {name.encode(): token_id for name, token_id in self.special_tokens.items()}
        while data:
            name = next((name for name in names if data.startswith(name)), None) if parse_control_tokens else None
            if name is None:
                lengths = range(min(self._longest, len(data)), 0, -1)
                name = next(data[:length] for length in lengths if data[:length] in self._by_text)
            ids.append(names[name] if name in names else self._by_text[name])
            data = data[len(name) :]
        return ids
