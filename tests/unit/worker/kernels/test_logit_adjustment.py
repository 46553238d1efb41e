"""Tests that counts updated token by token equal those of the whole sequence, however it was interrupted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagoda.wire.sampling import SamplingParams
from worker.kernels.logit_adjustment import Adjustment, TokenCounts, adjusted_logits

TOKENS = st.lists(st.integers(0, 300), min_size=1, max_size=200)
NO_IDS = np.empty(0, np.int32)


def times(counts: TokenCounts) -> dict[int, tuple[int, int]]:
    rows = zip(counts.ids_C.tolist(), counts.in_window_C.tolist(), counts.in_output_C.tolist(), strict=True)
    return {token_id: (in_window, in_output) for token_id, in_window, in_output in rows if in_window or in_output}


@given(TOKENS, st.data(), st.one_of(st.just(0), st.integers(1, 250)))
def test_counting_token_by_token_is_counting_at_once(tokens: list[int], data: st.DataObject, window: int) -> None:
    num_prompt_tokens = data.draw(st.integers(1, len(tokens)))
    num_before = data.draw(st.integers(num_prompt_tokens, len(tokens)))
    counts = TokenCounts(tokens[:num_before], num_prompt_tokens=num_prompt_tokens, window=window)
    for token_id in tokens[num_before:]:
        counts.count_output(token_id)
    in_window, output = tokens[-window:], tokens[num_prompt_tokens:]
    expected = {token_id: (in_window.count(token_id), output.count(token_id)) for token_id in {*in_window, *output}}
    assert times(counts) == expected
    assert times(TokenCounts(tokens, num_prompt_tokens=num_prompt_tokens, window=window)) == expected


def test_neutral_parameters_need_no_adjustment() -> None:
    neutral = SamplingParams(temperature=0.2, top_p=0.9, min_tokens=3, repetition_window=64)
    assert Adjustment.of(neutral, [1, 2], 2) is None
    biased = Adjustment.of(SamplingParams(logit_bias={1: 2.0}), [1, 2], 2)
    assert biased is not None
    assert biased.counts is None


@given(
    st.floats(0, 100, exclude_min=True), st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20)
)
def test_no_penalty_makes_a_finite_logit_unusable(penalty: float, logits: list[float]) -> None:
    """Check that no request can make a logit infinite or NaN, which would end the worker's session."""
    adjustment = Adjustment.of(SamplingParams(repetition_penalty=penalty), list(range(len(logits))), 1)
    adjusted_V = adjusted_logits(np.array([*logits, -np.inf], np.float32), adjustment, NO_IDS)
    assert not np.isnan(adjusted_V).any()
    assert (adjusted_V < np.inf).all()
    banned_V = adjusted_logits(np.array([0.0, *logits], np.float32), adjustment, np.array([0], np.int32))
    assert banned_V[0] == -np.inf
