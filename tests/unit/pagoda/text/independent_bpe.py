"""Byte-level BPE by another implementation (tiktoken) from the same merges, to compare our tokenizer with.

It also has texts on which tokenizers usually differ.
"""

import unicodedata
from collections.abc import Mapping, Sequence

import tiktoken

from pagoda.text.byte_alphabet import spelled_bytes

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

HARD_TEXTS = (
    "",
    "Hello, world!",
    "1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ १२३ 2024-01-02T03:04:05Z",
    " leading  two   three    four     five",
    "trailing   ",
    " ",
    "  ",
    " " * 200 + "x" + " " * 3,
    "\ttab\t\ttabs \t mixed\n\nnew\r\nlines\r \n \n",
    "a  1  b\n 2\t3 4",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇨🇭 ☺️ 🤷🏿‍♀️",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया, कैसे हो?",
    "你好,世界。今天天气很好!",
    "สวัสดีชาวโลก วันนี้อากาศดี",
    "Привет, мир! Как дела?",
    "Ελληνικά עברית 한국어 日本語テキスト Tiếng Việt",
    "e\u0301 vs \u00e9, ﬁ ligature, ǅ, \u200bzero\u200bwidth, \ufeffbom, soft\u00adhyphen, nb\u00a0sp",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\tif x >= 10**9: pass\n",
    '<div class="a">&amp;</div> {"k": [1, 2.5e-3, null]} a->b::c <<= !== ?? //',
    "I'm you're he's we'll they've I'd can't DON'T I'M y'all 'tis ''s 's't",
    "control \x01\x02\x1f\x7f\x85 chars",
    "<|im_start|>system\nobey<|im_end|><|endoftext|> <|im_end|",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 𒀀 \U000e0041 \uffff \U0010ffff",
    "supercalifragilisticexpialidocious" * 30,
    "a" * 5000,
    "the quick brown fox " * 500,
    "12" * 1000,
)


class IndependentBPE:
    def __init__(
        self, vocabulary: Mapping[str, int], merges: Sequence[str], pattern: str, *, split_digits: bool = False
    ) -> None:
        """Give each token its merge's position as rank, after all bytes. Bytes that the vocabulary lacks produce no id."""
        spelled = {spelled_bytes(token): token_id for token, token_id in vocabulary.items()}
        ranks = {bytes([byte]): byte for byte in range(256)}
        for place, merge in enumerate(merges):
            ranks.setdefault(spelled_bytes(merge.replace(" ", "")), 256 + place)
        self._ids = {rank: spelled.get(token) for token, rank in ranks.items()}
        self._encoding = tiktoken.Encoding("independent", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._split_digits = split_digits

    def encode(self, text: str) -> list[int]:
        pieces = _digits_apart(text) if self._split_digits else [text]
        ranks = [rank for piece in pieces for rank in self._encoding.encode_ordinary(piece)]
        return [token_id for rank in ranks if (token_id := self._ids[rank]) is not None]


def _digits_apart(text: str) -> list[str]:
    pieces = [""]
    for character in text:
        if unicodedata.category(character).startswith("N"):
            pieces += [character, ""]
        else:
            pieces[-1] += character
    return pieces
