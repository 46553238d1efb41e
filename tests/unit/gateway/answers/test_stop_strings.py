"""Stop strings: exactly the text before the first match comes out, however the text is cut into pieces."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers.stop_strings import StopMatcher

# Few different characters, so that stops overlap each other and themselves.
TEXTS = st.text("abc", max_size=40)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def expected(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Told plainly: the shortest beginning of the text that ends in a stop string; then the longest such stop string."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def run(pieces: Sequence[str], stops: Sequence[str]) -> tuple[str, str | None, list[str]]:
    matcher = StopMatcher(stops)
    emitted = [matcher.match_next(piece)[0] for piece in pieces]
    emitted.append(matcher.release_held())
    return "".join(emitted), matcher.matched, emitted


@given(pieces=st.lists(TEXTS, max_size=8), stops=STOPS)
def test_any_chunking_gives_the_text_before_the_first_match(pieces: list[str], stops: list[str]) -> None:
    text, matched, _ = run(pieces, stops)
    assert (text, matched) == expected("".join(pieces), stops)
    assert not any(stop in text for stop in stops)


@given(text=TEXTS, stops=STOPS)
def test_nothing_is_held_back_that_cannot_begin_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    emitted, matched = matcher.match_next(text)
    if matched is None:
        held = text[len(emitted) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


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


def test_a_long_stop_string_that_nearly_matches_itself_costs_no_more() -> None:
    stop = "a" * 20_000 + "b"
    text, matched, _ = run(["a" * 50_000, "b", "c"], [stop])
    assert (text, matched) == ("a" * 30_000, stop)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])
