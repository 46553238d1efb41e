"""The text that is scored, and its windows of 512 tokens, each read without the others.

The text is a frozen copy of the licence, pages of documentation, and answers of the default model at temperature 0.8, so
that later changes of these do not change results.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

TEXT = Path(__file__).with_name("text.txt")
WINDOW = 512
"""Tokens per window, as with llama-perplexity -c 512."""
BEGINNING = 32
"""Tokens of a beginning. A window holds WINDOW / BEGINNING of them."""
SENTENCE = re.compile(r"(?<=[.:?!])\s+(?=[A-Z`#])")
OUTLIER = (
    "Photosynthesis is the process by which plants convert light energy into chemical energy. It takes place in the "
    "leaves, where chlorophyll absorbs the light of the sun, and needs water and carbon dioxide."
)
"""Text in which rounding moved a log-probability of Qwen2.5-Coder-0.5B by 1.6, after its first sentence."""


def windows(token_ids: Sequence[int], bos_token_id: int | None, size: int = WINDOW) -> list[list[int]]:
    """Return the whole windows of a text; the remainder is not scored.

    If the model needs a beginning-of-sequence token, it replaces the first token of each window, as in llama-perplexity.
    """
    cut = [list(token_ids[start : start + size]) for start in range(0, len(token_ids) - size + 1, size)]
    if bos_token_id is not None:
        for window in cut:
            window[0] = bos_token_id
    return cut


def spread(cut: Sequence[list[int]], wanted: int | None) -> list[list[int]]:
    """Return at most `wanted` windows, or all if None. They are evenly spaced, because the text has parts of different kinds."""
    step = 1 if wanted is None else max(1, -(-len(cut) // wanted))
    return list(cut[::step])


def beginnings(
    text: str, encode: Callable[[str], Sequence[int]], bos_token_id: int | None, wanted: int = WINDOW // BEGINNING
) -> list[list[int]]:
    """Return the first BEGINNING tokens of a known outlier and of sentences evenly spaced over the text, each read alone.

    A model's state varies most at its first tokens, some of which become attention sinks.
    """
    starts = [0, *(found.end() for found in SENTENCE.finditer(text))]
    texts = [OUTLIER, *(text[start : start + 20 * BEGINNING] for start in starts)]
    prefix = [] if bos_token_id is None else [bos_token_id]
    cut = [[*prefix, *encode(each)][:BEGINNING] for each in texts]
    whole = [each for each in cut if len(each) == BEGINNING]
    step = max(1, (len(whole) - 1) // (wanted - 1))
    return [whole[0], *whole[1::step]][:wanted]
