"""The tokens of words that an answer must not have."""

from collections.abc import Iterable

from pagoda.text.tokenizer import Tokenizer


def bad_word_tokens(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Return the sequences of token ids with which each word begins a text and continues one, after a space."""
    spellings: dict[tuple[int, ...], None] = {}
    for word in words:
        # A word of spaces alone is taken as it is.
        bare = word.lstrip() or word
        for text in (bare, f" {bare}") if bare.strip() else (bare,):
            token_ids = tokenizer.encode(text, add_special_tokens=False)
            spellings[tuple(token_ids)] = None
    return tuple(filter(None, spellings))
