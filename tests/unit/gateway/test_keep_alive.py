"""Ollama's durations, and what is shown of them."""

import math
from datetime import datetime

import pytest

from gateway.ollama.keep_alive import FOREVER, KeepAlive, parse_keep_alive
from tests.fakes.clock import FakeClock


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
    assert parse_keep_alive(value) == pytest.approx(seconds)


def test_a_wish_lasts_until_the_next_one() -> None:
    keep_alive = KeepAlive()
    assert keep_alive.expires_at("m") == FOREVER
    keep_alive.used("m", "5m")
    first = datetime.fromisoformat(keep_alive.expires_at("m"))
    keep_alive.used("m", None)
    assert datetime.fromisoformat(keep_alive.expires_at("m")) >= first
    keep_alive.used("m", -1)
    assert keep_alive.expires_at("m") == FOREVER
    assert keep_alive.expires_at("other") == FOREVER


def test_what_stays_loaded_after_its_time_is_shown_as_kept() -> None:
    clock = FakeClock()
    keep_alive = KeepAlive(clock.time)
    keep_alive.used("m", 0)
    assert keep_alive.expires_at("m") == FOREVER
    keep_alive.used("m", "5m")
    assert keep_alive.expires_at("m") == "1970-01-01T00:05:00.000000Z"
    clock.advance(300)
    assert keep_alive.expires_at("m") == FOREVER
