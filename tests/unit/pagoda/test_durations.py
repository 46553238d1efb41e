"""Durations in the notation of Ollama's clients."""

import math

import pytest

from pagoda.durations import parse_duration, parse_setting


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        (-1, math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        (".5s", 0.5),
        ("0", 0),
        ("0s", 0),
        ("-1m", math.inf),
        (1e300, math.inf),
        ("99999999999999h", math.inf),
    ],
)
def test_durations(value: float | str, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "5", "5 m", "5m x", "m", "nan", "٣m", "1" * 100_000, "1m" * 17, ".5" * 4000 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="5m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("-1", math.inf), ("5m", 300), ("0", 0), ("1e400", math.inf)]
)
def test_a_bare_number_in_a_setting_is_seconds(text: str, seconds: float) -> None:
    assert parse_setting(text) == seconds


@pytest.mark.parametrize("text", ["", "nan", "five"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="5m"):
        parse_setting(text)
