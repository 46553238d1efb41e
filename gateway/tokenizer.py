"""Text to token ids and back, for one model.

Special tokens are ids here, not text: one that a user types is encoded as the characters it consists of, and only the chat
template puts real ones into a prompt. Knows nothing about requests or templates.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Self

from gateway import gguf_vocabulary, hf_vocabulary
from gateway.prompt_bound import PromptBound, bounded_text
from gateway.vocabulary import Vocabulary
from pagoda.models.model import Model, ModelFormat

# One text is one thread's work. The library's own pool would only make a text wait for others in it.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHORT_CHARACTERS = 8192
"""A text up to this length is encoded in at most 10 ms, which is not worth giving up the interpreter's lock."""


class Tokenizer:
    """A model's vocabulary in use. It has no state, so any thread may encode and decode.

    Encoding a text of more than SHORT_CHARACTERS releases the interpreter's lock.
    """

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._encoder = vocabulary.encoder
        self._token_bytes = vocabulary.token_bytes
        self._longest_token = max(
            (len(spelled.decode("utf-8", "replace")) for spelled in vocabulary.token_bytes), default=1
        )
        """In characters."""
        self._special_texts = {token_id: text for text, token_id in vocabulary.special_tokens.items()}
        self.special_tokens: Mapping[str, int] = vocabulary.special_tokens
        self.bos_token_id = vocabulary.bos_token_id
        self.add_bos = vocabulary.add_bos
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab_size = vocab_size
        """The model's: ids at and above it cannot be computed. Some below may have no text."""

    @classmethod
    def load(cls, model: Model) -> Self:
        read = gguf_vocabulary.read_vocabulary if model.format is ModelFormat.GGUF else hf_vocabulary.read_vocabulary
        return cls(read(model.path), vocab_size=model.config.vocab_size, eos_token_ids=model.eos_token_ids)

    def encode(self, text: str, *, add_special_tokens: bool = True, bound: PromptBound | None = None) -> list[int]:
        """Return the token ids of `text`, or raise TextTooLongError where `bound` refuses it.

        `add_special_tokens` puts the beginning-of-sequence token in front, for models that expect one.
        """
        text = _whole_characters(text)
        if len(text) <= SHORT_CHARACTERS:
            ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        else:
            if bound is not None:
                text = bounded_text(text, bound, self._count_tokens, longest_token=self._longest_token)
            # Unlike `encode`, this releases the interpreter's lock.
            ids = self._encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return [*self.bos_prefix(), *ids] if add_special_tokens else ids

    def _count_tokens(self, text: str) -> int:
        return len(self._encoder.encode_batch_fast([text], add_special_tokens=False)[0])

    def bos_prefix(self) -> list[int]:
        return [self.bos_token_id] if self.add_bos and self.bos_token_id is not None else []

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Bytes that are no UTF-8 become U+FFFD."""
        spell = self.token_bytes if skip_special_tokens else self.bytes_with_special
        return b"".join(map(spell, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to the text: part of a character, perhaps, and nothing if it is special or unknown."""
        return self._token_bytes[token_id] if 0 <= token_id < len(self._token_bytes) else b""

    def token_text(self, token_id: int) -> str:
        """For showing one token by itself, special ones included."""
        return self.bytes_with_special(token_id).decode("utf-8", "replace")

    def bytes_with_special(self, token_id: int) -> bytes:
        """As `token_bytes`, and the name of a special token."""
        special = self._special_texts.get(token_id)
        return special.encode() if special is not None else self.token_bytes(token_id)


def _whole_characters(text: str) -> str:
    """JSON can carry halves of characters (lone surrogates), which have no UTF-8; they become U+FFFD as everywhere else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
