"""Sizes, times and tables have Ollama's format."""

from datetime import UTC, datetime, timedelta

import pytest

from pagoda.cli import human

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (98_362_432, "98 MB"),
        (4_700_000_000, "4.7 GB"),
        (10**10, "10 GB"),
        (2 * 10**12, "2 TB"),
    ],
)
def test_size(num_bytes: int, text: str) -> None:
    assert human.size(num_bytes) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(0), "Less than a second ago"),
        (timedelta(seconds=1), "1 second ago"),
        (timedelta(seconds=59), "59 seconds ago"),
        (timedelta(seconds=61), "About a minute ago"),
        (timedelta(minutes=59), "59 minutes ago"),
        (timedelta(hours=1), "About an hour ago"),
        (timedelta(hours=47), "47 hours ago"),
        (timedelta(days=13), "13 days ago"),
        (timedelta(days=15), "2 weeks ago"),
        (timedelta(days=65), "2 months ago"),
        (timedelta(days=800), "2 years ago"),
        (-timedelta(minutes=4), "4 minutes from now"),
        (-timedelta(days=365 * 200), "Forever"),
    ],
)
def test_moment(ago: timedelta, text: str) -> None:
    assert human.moment(NOW - ago, NOW) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0ns"),
        (950, "950ns"),
        (256_009, "256.009µs"),
        (462_173_109, "462.173109ms"),
        (4_569_460_031, "4.569460031s"),
        (2_000_000_000, "2s"),
        (63_500_000_000, "1m3.5s"),
        (3_600_000_000_000, "1h0m0s"),
    ],
)
def test_duration(nanoseconds: int, text: str) -> None:
    assert human.duration(nanoseconds) == text


def test_a_table_has_no_borders_and_no_trailing_spaces() -> None:
    assert human.table([["NAME", "ID"], ["a", "12345"], ["abcdef", ""]]) == "NAME      ID\na         12345\nabcdef"
