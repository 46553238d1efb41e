"""The text that is scored, and how it is cut: windows of 512 tokens, each read by itself.

The text is a copy, so that a change of the documents it came from changes no number: the licence, pages of documentation,
and answers of the default model at temperature 0.8. Knows nothing about models or servers.
"""

from collections.abc import Sequence
from pathlib import Path

TEXT = Path(__file__).with_name("text.txt")
WINDOW = 512
"""As llama-perplexity's -c 512."""


def windows(token_ids: Sequence[int], bos_token_id: int | None, size: int = WINDOW) -> list[list[int]]:
    """Whole windows only: what is left over is not scored.

    For a model that wants a beginning-of-sequence token it takes the place of each window's first one, as in llama-perplexity.
    """
    cut = [list(token_ids[start : start + size]) for start in range(0, len(token_ids) - size + 1, size)]
    if bos_token_id is not None:
        for window in cut:
            window[0] = bos_token_id
    return cut


def spread(cut: Sequence[list[int]], wanted: int | None) -> list[list[int]]:
    """At most as many as are wanted, evenly spaced, since the text changes its kind on the way; None: all."""
    step = 1 if wanted is None else max(1, -(-len(cut) // wanted))
    return list(cut[::step])
