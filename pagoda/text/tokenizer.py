"""Conversion of text to token ids and back, for one model.

In a raw prompt the name of a control token is that token. In a prompt rendered by a chat template, names that a user typed in a
message are marked (special_text.py) and stay text.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Self

import tokenizers

from pagoda.models.model import Model, ModelFormat
from pagoda.text import gguf_vocabulary, hf_vocabulary
from pagoda.text.prompt_bound import PromptBound, bounded_text
from pagoda.text.vocabulary import Vocabulary

# Each text is encoded by its caller's thread. In the library's own pool, texts would only wait for each other.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHORT_CHARACTERS = 8192
"""Longest text that is encoded without releasing the interpreter's lock. Encoding it takes at most 10 ms."""


Span = tuple[int, int, int]
"""A control token in a text: its beginning and end in characters, and its id."""


class Tokenizer:
    """The tokenizer of a model. It has no state, so that any thread may encode and decode.

    Encoding a text of more than SHORT_CHARACTERS releases the interpreter's lock.
    """

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._encoders = vocabulary.encoders
        self._token_bytes = vocabulary.token_bytes
        spelled = (each.decode("utf-8", "replace") for each in vocabulary.token_bytes)
        self._longest_token = max(map(len, (*spelled, *vocabulary.special_tokens)), default=1)
        """Length of the longest token, in characters."""
        self._special_texts = {token_id: text for text, token_id in vocabulary.special_tokens.items()}
        self.special_tokens: Mapping[str, int] = vocabulary.special_tokens
        self.bos_token_id = vocabulary.bos_token_id
        self.add_bos = vocabulary.add_bos
        self._closing = list(vocabulary.closing_token_ids)
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab_size = vocab_size
        """Number of ids that the model computes. Some of them may have no text."""

    @classmethod
    def load(cls, model: Model) -> Self:
        read = gguf_vocabulary.read_vocabulary if model.format is ModelFormat.GGUF else hf_vocabulary.read_vocabulary
        return cls(read(model.path), vocab_size=model.config.vocab_size, eos_token_ids=model.eos_token_ids)

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        parse_control_tokens: bool = True,
        bound: PromptBound | None = None,
    ) -> list[int]:
        """Return the token ids of a raw prompt. Raises TextTooLongError if `bound` refuses it.

        With `add_special_tokens`, the ids begin with the beginning-of-sequence token if the model expects one, but never twice.
        Without `parse_control_tokens`, the names of control tokens are text.
        """
        encoder = self._encoders.parsing if parse_control_tokens else self._encoders.literal
        ids = self._encode(encoder, _whole_characters(text), bound)
        return self.begun(ids) + self._closing if add_special_tokens else ids

    def encode_marked(self, text: str, mark: str, *, bound: PromptBound | None = None) -> list[int]:
        """Return the token ids of a rendered prompt. A control token's name with `mark` inside or after it is text.

        The marks themselves are removed. Text between control tokens has the ids that it would have without control tokens.
        """
        text = _whole_characters(text)
        if mark not in text:
            return self._encode(self._encoders.parsing, text, bound)
        if bound is not None and len(text) > SHORT_CHARACTERS:
            text = bounded_text(text, bound, self._count_tokens, longest_token=self._longest_token)
        spans = [span for span in self.control_spans(text) if text[span[1] : span[1] + 1] != mark]
        unmarked = text.replace(mark, "")
        if _without_marks(spans, text, mark) == self.control_spans(unmarked):
            return self._encode(self._encoders.parsing, unmarked, bound)  # the marks make no difference
        ids: list[int] = []
        position = 0
        for start, end, token_id in (*spans, (len(text), len(text), None)):
            encoder = self._encoders.literal_inner if position else self._encoders.literal
            ids += self._encode(encoder, text[position:start].replace(mark, ""), bound)
            ids += [] if token_id is None else [token_id]
            ids = ids if bound is None else bound.trimmed(ids)
            position = end
        return ids

    def control_spans(self, text: str) -> list[Span]:
        """Return the control tokens in a text, including adjacent spaces that they absorb."""
        (encoding,) = self._encoders.parsing.encode_batch([text], add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [(*offsets, token_id) for token_id, offsets in pairs if token_id in self._special_texts]

    @property
    def hides_control_tokens(self) -> bool:
        """True if, after normalization, a text that is not a control token's name may be that token."""
        return self._encoders.normalized_names

    def begun(self, ids: list[int]) -> list[int]:
        """Return the ids with the beginning-of-sequence token once in front, if the model expects one."""
        bos = self.bos_prefix()
        return ids if ids[: len(bos)] == bos else bos + ids

    def _encode(self, encoder: tokenizers.Tokenizer, text: str, bound: PromptBound | None) -> list[int]:
        if len(text) <= SHORT_CHARACTERS:
            ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
            return ids
        if bound is not None:
            text = bounded_text(text, bound, self._count_tokens, longest_token=self._longest_token)
        # Unlike `encode`, this releases the interpreter's lock.
        ids = encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def _count_tokens(self, text: str) -> int:
        return len(self._encoders.parsing.encode_batch_fast([text], add_special_tokens=False)[0])

    def bos_prefix(self) -> list[int]:
        return [self.bos_token_id] if self.add_bos and self.bos_token_id is not None else []

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of the ids. Invalid UTF-8 becomes U+FFFD."""
        spell = self.token_bytes if skip_special_tokens else self.bytes_with_special
        return b"".join(map(spell, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token, which may be a part of a character. Empty for a special or unknown token."""
        return self._token_bytes[token_id] if 0 <= token_id < len(self._token_bytes) else b""

    def token_text(self, token_id: int) -> str:
        """Return the text of a single token, also of a special one."""
        return self.bytes_with_special(token_id).decode("utf-8", "replace")

    def bytes_with_special(self, token_id: int) -> bytes:
        """Return the bytes of a token, or the name of a special one."""
        special = self._special_texts.get(token_id)
        return special.encode() if special is not None else self.token_bytes(token_id)


def _without_marks(spans: Sequence[Span], text: str, mark: str) -> list[Span]:
    """Return the positions of the spans after the marks are removed from the text."""
    moved: list[Span] = []
    position = num_marks = 0
    for start, end, token_id in spans:
        num_marks += text.count(mark, position, start)
        # A span has no mark inside, or it would not have been found.
        moved.append((start - num_marks, end - num_marks, token_id))
        position = end
    return moved


def _whole_characters(text: str) -> str:
    """Replace lone surrogates by U+FFFD. JSON can contain them, but UTF-8 cannot represent them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
