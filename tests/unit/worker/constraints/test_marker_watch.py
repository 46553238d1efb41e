"""Tests of the search for markers: they are found in all splits of a text into tokens, and where they end first."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pagoda.wire.constraint import Marker
from worker.constraints.marker_watch import MarkerWatch

MARKERS = (b"<call>", b"</t>", b"aab", b"<c")
TEXTS = st.lists(st.sampled_from([b"<", b"call>", b"<call>", b"</t>", b"a", b"aa", b"b", b" ", b"<c"]), max_size=12)
SPLITS = TEXTS.flatmap(
    lambda parts: st.lists(st.integers(0, len(b"".join(parts))), max_size=10).map(
        lambda cuts: split(b"".join(parts), cuts)
    )
)


def split(text: bytes, cuts: list[int]) -> list[bytes]:
    """Return the text in pieces, some of them empty."""
    places = [0, *sorted(cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@given(SPLITS, st.sets(st.sampled_from(MARKERS), min_size=1))
def test_a_marker_is_found_when_its_last_byte_arrives(pieces: list[bytes], texts: set[bytes]) -> None:
    watch, before = MarkerWatch(Marker(text=text) for text in texts), b""
    for token_id, piece in enumerate(pieces):
        found = watch.see(token_id, piece)
        whole = before + piece
        ends = sorted(
            end for text in texts for end in range(len(before) + 1, len(whole) + 1) if whole[:end].endswith(text)
        )
        assert [len(whole) - len(each.rest) for each in found] == ends
        for each in found:
            end, first = len(whole) - len(each.rest), each.token_ids[0]
            covered = b"".join(pieces[first : token_id + 1])
            assert each.token_ids == tuple(range(first, token_id + 1))
            start = sum(map(len, pieces[:first]))
            # The marker begins in the first of the covering tokens.
            assert any(text in covered and start <= end - len(text) < start + len(pieces[first]) for text in texts)
        before = whole


@given(SPLITS, st.sampled_from(MARKERS))
def test_the_part_of_a_marker_that_exists(pieces: list[bytes], text: bytes) -> None:
    watch = MarkerWatch([Marker(text=text)])
    for token_id, piece in enumerate(pieces):
        watch.see(token_id, piece)
    begun = watch.begun_part(text)
    whole = b"".join(pieces)
    lengths = [length for length in range(len(text)) if whole.endswith(text[:length])]
    assert begun == text[: max(lengths)]


def test_a_marker_is_found_by_its_token() -> None:
    watch = MarkerWatch([Marker(text=b"", token_id=7)])
    assert watch.see(3, b"a") == []
    [found] = watch.see(7, b"<call>")
    assert (found.token_ids, found.rest) == ((7,), b"")


def test_nothing_is_found_across_a_reset() -> None:
    watch = MarkerWatch([Marker(text=b"ab")])
    watch.see(1, b"a")
    watch.reset()
    assert watch.see(2, b"b") == []
