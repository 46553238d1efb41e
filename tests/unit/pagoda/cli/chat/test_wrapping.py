"""Words wrap at the terminal's edge, whatever pieces they arrive in, and a model's text cannot control the terminal."""

import re

from hypothesis import given
from hypothesis import strategies as st

from pagoda.cli.chat.answer import WordWrap

_GO_BACK = re.compile(r"\x1b\[(\d+)D\x1b\[K")


def screen(written: str) -> list[str]:
    """Return what a terminal shows: it moves the cursor back and clears to the end of the line."""
    lines = [""]
    position = 0
    while position < len(written):
        if match := _GO_BACK.match(written, position):
            lines[-1] = lines[-1][: -int(match[1])]
            position = match.end()
            continue
        if written[position] == "\n":
            lines.append("")
        else:
            lines[-1] += written[position]
        position += 1
    return lines


def wrapped(text: str, width: int, piece: int = 3) -> list[str]:
    wrap = WordWrap(width)
    return screen("".join(wrap.push(text[at : at + piece]) for at in range(0, len(text), piece)))


def test_a_word_that_does_not_fit_moves_whole() -> None:
    assert wrapped("one two three four", 15) == ["one two ", "three four"]


def test_lines_of_the_text_stay() -> None:
    assert wrapped("one\n\ntwo three four", 15) == ["one", "", "two three ", "four"]


def test_a_word_longer_than_a_line_breaks() -> None:
    assert wrapped("x" * 25, 15) == ["x" * 10, "x" * 10, "x" * 5]


def test_wide_characters_count_twice_and_break_anywhere() -> None:
    assert wrapped("塔" * 7, 15) == ["塔" * 5, "塔" * 2]


def test_nothing_is_wrapped_without_a_width() -> None:
    assert WordWrap(None).push("x" * 500 + " y") == "x" * 500 + " y"


def test_control_sequences_are_taken_out() -> None:
    assert WordWrap(None).push("a\x1b]52;c;aGk=\x07b\x1b[2Jc\r\x9bd\te\n") == "a]52;c;aGk=b[2Jcd\te\n"


@given(st.text("ab \n", max_size=200), st.integers(10, 30), st.integers(1, 7))
def test_no_line_is_too_long_and_no_word_is_lost(text: str, width: int, piece: int) -> None:
    lines = wrapped(text, width, piece)
    assert all(len(line) <= width - 5 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
