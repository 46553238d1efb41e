"""The text that is scored, and its windows of 512 tokens, each read without the others.

The text is a frozen copy of the licence, pages of documentation, and answers of the default model at temperature 0.8, so
that later changes of these do not change results.
"""

from collections.abc import Sequence
from pathlib import Path

TEXT = Path(__file__).with_name("text.txt")
WINDOW = 512
"""Tokens per window, as with llama-perplexity -c 512."""


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
