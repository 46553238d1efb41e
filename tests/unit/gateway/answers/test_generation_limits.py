"""Tests of fitting a request into the window, as a table."""

import pytest

from gateway.answers.text_request import SamplingChoice, TextRequest, fit_to_window
from gateway.errors import InvalidRequestError, PromptTooLongError
from pagoda.wire.sampling import SamplingParams


def text_request(
    num_prompt_tokens: int, max_tokens: int | None = None, min_tokens: int = 0, max_total_tokens: int | None = None
) -> TextRequest:
    return TextRequest(
        prompt_token_ids=(1,) * num_prompt_tokens,
        sampling=SamplingChoice(
            params=SamplingParams(max_tokens=max_tokens, min_tokens=min_tokens), max_total_tokens=max_total_tokens
        ),
        prompt_field="prompt",
    )


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (text_request(4), (6, 0)),
        (text_request(4, max_tokens=3), (3, 0)),
        (text_request(4, max_tokens=100), (6, 0)),
        (text_request(9, max_tokens=100), (1, 0)),
        (text_request(4, max_tokens=100, min_tokens=50), (6, 6)),
        (text_request(4, max_total_tokens=5), (1, 0)),
        (text_request(4, max_total_tokens=5000), (6, 0)),
    ],
)
def test_max_tokens_becomes_what_fits(request_: TextRequest, expected: tuple[int, int]) -> None:
    sampling = fit_to_window(request_, 10).sampling.params
    assert (sampling.max_tokens, sampling.min_tokens) == expected


@pytest.mark.parametrize(("num_prompt_tokens", "limit"), [(10, None), (11, None), (4, 4)])
def test_a_prompt_without_room_for_an_answer_is_refused(num_prompt_tokens: int, limit: int | None) -> None:
    with pytest.raises(PromptTooLongError, match=rf"{limit or 10} tokens.*{num_prompt_tokens} tokens"):
        fit_to_window(text_request(num_prompt_tokens, max_total_tokens=limit), 10)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        fit_to_window(text_request(0), 10)
