"""Tests of percentiles and rates against values worked out by hand."""

import math

import pytest

from bench.client import Outcome
from bench.report import distribution, percentile, summarize


def outcome(start_s: float, chunks: list[float], *, tokens: int, prompt: int = 100, cached: int = 0) -> Outcome:
    return Outcome(
        start_s=start_s,
        end_s=chunks[-1],
        chunk_times_s=chunks,
        num_prompt_tokens=prompt,
        num_cached_tokens=cached,
        num_output_tokens=tokens,
    )


@pytest.mark.parametrize(("percent", "value"), [(0, 10), (50, 25), (90, 37), (100, 40), (99, 39.7)])
def test_percentiles_lie_between_the_nearest_ranks(percent: float, value: float) -> None:
    assert percentile([10, 20, 30, 40], percent) == pytest.approx(value)


def test_nothing_measured_is_not_a_zero() -> None:
    assert math.isnan(distribution([]).p99)


def test_summary() -> None:
    outcomes = [
        outcome(0.0, [0.5, 1.0, 2.0], tokens=3, cached=50),
        outcome(1.0, [2.0, 4.0], tokens=5),
        Outcome(start_s=0.0, end_s=0.1, error="429 too many"),
    ]
    result = summarize("random 100/5", 2, None, outcomes)
    assert (result.num_requests, result.num_errors, result.first_error) == (3, 1, "429 too many")
    assert result.output_tokens_per_s == pytest.approx(8 / 4)
    assert result.total_tokens_per_s == pytest.approx(208 / 4)
    assert result.cached_share == pytest.approx(0.25)
    assert result.ttft_ms.mean == pytest.approx(750)
    assert result.itl_ms.p50 == pytest.approx(1000)
    assert result.tpot_ms.mean == pytest.approx((750 + 500) / 2)
    assert result.e2e_ms.p50 == pytest.approx(2500)
