"""Tests of the search for stop strings: only the text before the first match comes out, however the text is cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers.stop_strings import StopMatcher

# Few different characters, so that stops overlap each other and themselves; some need two or four bytes each.
ALPHABETS = st.sampled_from(["a", "ab", "abc", "aé", "a日", "a😀"])
CASES = ALPHABETS.flatmap(
    lambda alphabet: st.tuples(
        st.lists(st.text(alphabet, max_size=12), max_size=8),
        st.lists(st.text(alphabet, min_size=1, max_size=6), max_size=4),
    )
)


def released_text(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Return the text that must be released after this text has arrived, and the stop string that ended it.

    This is the specification. The shortest beginning of the text that ends in a stop string counts, and of its stop
    strings the longest. Without one, all is released except the longest end that may still become a stop string.
    """
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    safe = next(start for start in range(len(text) + 1) if any(stop.startswith(text[start:]) for stop in (*stops, "")))
    return text[:safe], None


def run(pieces: Sequence[str], stops: Sequence[str]) -> tuple[str, str | None, list[str]]:
    matcher = StopMatcher(stops)
    emitted = [matcher.match_next(piece)[0] for piece in pieces]
    emitted.append(matcher.release_held())
    return "".join(emitted), matcher.matched, emitted


@given(case=CASES)
def test_each_piece_releases_all_text_that_is_safe_however_it_is_cut(case: tuple[list[str], list[str]]) -> None:
    pieces, stops = case
    matcher = StopMatcher(stops)
    arrived = emitted = ""
    for piece in pieces:
        arrived += piece
        released, matched = matcher.match_next(piece)
        emitted += released
        assert (emitted, matched) == released_text(arrived, stops)


@given(case=CASES)
def test_what_was_held_back_comes_out_at_the_end_unless_a_stop_string_did(case: tuple[list[str], list[str]]) -> None:
    pieces, stops = case
    text, matched, _ = run(pieces, stops)
    whole = "".join(pieces)
    assert text == (whole if matched is None else released_text(whole, stops)[0])
    assert not any(stop in text for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "emitted", "matched"),
    [
        (["Hello", " wor", "ld"], ["or"], ["Hell", "o w", "", ""], "or"),
        (["a<", "|", "end", "|>b"], ["<|end|>"], ["a", "", "", "", ""], "<|end|>"),
        (["a<", "|", "x"], ["<|end|>"], ["a", "", "<|x", ""], None),
        (["a<", "|"], ["<|end|>"], ["a", "", "<|"], None),
        (["xabcd"], ["bc", "abcd"], ["xa", ""], "bc"),  # complete first
        (["xabc"], ["bc", "abc"], ["x", ""], "abc"),  # complete together: began first
        (["xabc"], ["ab", "abc"], ["x", ""], "ab"),  # same beginning: complete first
        (["aab", "aaab"], ["aaab"], ["aab", "", ""], "aaab"),
        (["日本", "語。", "次"], ["。"], ["日本", "語", "", ""], "。"),
        (["anything"], [], ["anything", ""], None),
    ],
)
def test_examples(pieces: list[str], stops: list[str], emitted: list[str], matched: str | None) -> None:
    assert run(pieces, stops)[1:] == (matched, emitted)


def test_a_long_stop_string_that_nearly_matches_itself_is_found() -> None:
    stop = "a" * 20_000 + "b"
    text, matched, _ = run(["a" * 50_000, "b", "c"], [stop])
    assert (text, matched) == ("a" * 30_000, stop)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])
