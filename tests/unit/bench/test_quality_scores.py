"""Tests of the quality table's definitions: windows, perplexity, divergence, agreement."""

import math

import pytest
import torch

from bench.quality.comparison import Tally
from bench.quality.perplexity import perplexity_of
from bench.quality.text import BEGINNING, OUTLIER, TEXT, WINDOW, beginnings, spread, windows

MAX_TEXT_BYTES = 60_000


def test_only_whole_windows_are_scored() -> None:
    assert windows(range(11), None, size=4) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_each_window_begins_with_bos_where_the_model_wants_one() -> None:
    assert windows([9, *range(7)], 9, size=4) == [[9, 0, 1, 2], [9, 4, 5, 6]]


@pytest.mark.parametrize(
    ("wanted", "starts"), [(None, [0, 4, 8, 12, 16]), (5, [0, 4, 8, 12, 16]), (3, [0, 8, 16]), (1, [0])]
)
def test_fewer_windows_are_spread_over_the_text(wanted: int | None, starts: list[int]) -> None:
    assert [window[0] for window in spread(windows(range(20), None, size=4), wanted)] == starts


def test_the_text_is_small_and_long_enough() -> None:
    """Check that the text has a dozen windows even if a vocabulary's tokens have six bytes."""
    assert 12 * WINDOW * 6 < TEXT.stat().st_size < MAX_TEXT_BYTES


def test_perplexity_of_guessing_among_equals_is_their_number() -> None:
    perplexity = perplexity_of([[-math.log(8)] * 511] * 3)
    assert perplexity.whole == pytest.approx(8)
    assert perplexity.second_half == pytest.approx(8)
    assert perplexity.num_tokens == 3 * 511


def test_second_halves_are_the_tokens_that_llama_perplexity_scores() -> None:
    """Check that the 255 tokens after the first 257 of 512 count."""
    window = [-1.0] * 256 + [-2.0] * 255
    assert perplexity_of([window]).second_half == pytest.approx(math.exp(2))
    assert perplexity_of([window]).whole == pytest.approx(math.exp((256 + 2 * 255) / 511))


def tally(mode: list[list[float]], reference: list[list[float]], chosen: list[int]) -> Tally:
    """Return a tally of one window per list: both of its rows have these probabilities, all its tokens are the chosen one."""
    filled = Tally("mode")
    for expected, given, token in zip(reference, mode, chosen, strict=True):
        filled.add(torch.tensor([given] * 2).log(), torch.tensor([expected] * 2).log(), [token] * 3)
    return filled


def test_a_mode_like_float32_loses_nothing() -> None:
    probabilities = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
    quality = tally(probabilities, probabilities, [1, 2]).quality()
    assert quality.perplexity == pytest.approx(1 / math.sqrt(0.25 * 0.7))
    assert quality.perplexity_change == quality.perplexity_change_error == quality.mean_kl == 0
    assert quality.top1 == 1


def test_losses_are_against_float32() -> None:
    reference = [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]
    mode = [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]
    quality = tally(mode, reference, [0, 0]).quality()
    assert quality.top1 == 0.5
    assert quality.mean_kl == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2)
    assert quality.perplexity_change == pytest.approx(math.sqrt(2) - 1)
    assert quality.perplexity_change_error == pytest.approx(math.log(2) / 2)


def test_the_worst_positions_are_those_of_windows_and_beginnings() -> None:
    filled = tally([[0.5, 0.5]] * 2, [[0.5, 0.5]] * 2, [0, 0])
    row = torch.tensor([[0.25, 0.75]]).log()
    for _ in range(5):
        filled.add_divergence(row, torch.tensor([[0.5, 0.5]]).log())
    quality = filled.quality()
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert quality.largest_kl == pytest.approx(expected)
    assert quality.ten_largest_kl == pytest.approx(expected * 5 / 9)
    assert quality.mean_kl == 0


def test_beginnings_are_those_of_sentences() -> None:
    text = "One sentence that is long enough. " * 100
    cut = beginnings(text, lambda part: list(part.encode()), 0, wanted=4)
    assert [bytes(ids[1:]).decode() for ids in cut] == [
        OUTLIER[: BEGINNING - 1],
        *["One sentence that is long enough. "[: BEGINNING - 1]] * 3,
    ]
