"""Wire data comes out of its protobuf form as it went in, over bytes, for every type and every value that its fields can hold."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
float32 = st.floats(width=32, allow_nan=False)
token_ids = st.lists(uint32, max_size=4).map(tuple)
optional_uint32 = st.none() | uint32

logprobs = st.builds(TokenLogprobs, logprob=float32, top=st.lists(st.tuples(uint32, float32), max_size=3).map(tuple))
some_logprobs = st.lists(logprobs, max_size=3).map(tuple)
sampling = st.builds(
    SamplingParams,
    temperature=float32,
    top_p=float32,
    top_k=uint32,
    min_p=float32,
    presence_penalty=float32,
    frequency_penalty=float32,
    repetition_penalty=float32,
    repetition_window=uint32,
    logit_bias=st.dictionaries(uint32, float32, max_size=3),
    seed=uint64,
    max_tokens=optional_uint32,
    min_tokens=uint32,
    ignore_eos=st.booleans(),
    stop_token_ids=token_ids,
    num_logprobs=optional_uint32,
    num_prompt_logprobs=optional_uint32,
)
# Only what has stopped names the token that stopped it.
stops = st.tuples(st.just(False), st.none()) | st.tuples(st.just(True), optional_uint32)
sampled_tokens = st.tuples(uint64, uint32, token_ids, some_logprobs, stops).map(
    lambda row: SampledTokens(*row[:4], *row[4])
)
one_sampled_token = st.tuples(uint64, uint32, st.tuples(uint32)).map(lambda row: SampledTokens(*row))
scored_tokens = st.builds(ScoredTokens, sequence_id=uint64, attempt=uint32, start=uint32, logprobs=some_logprobs)


def _columns_last(sampled: list[SampledTokens]) -> tuple[SampledTokens, ...]:
    return tuple(sorted(sampled, key=lambda each: each.fits_in_columns))


step_result = st.builds(
    StepResult,
    step_id=uint64,
    sampled=st.lists(sampled_tokens | one_sampled_token, max_size=5).map(_columns_last),
    scored=st.lists(scored_tokens, max_size=3).map(tuple),
    step_us=uint64,
    next_is_last=st.booleans(),
)

WIRE_DATA: dict[type[Any], st.SearchStrategy[Any]] = {
    TokenLogprobs: logprobs,
    SamplingParams: sampling,
    SampledTokens: sampled_tokens,
    ScoredTokens: scored_tokens,
}


def after_the_wire(value: Any, to_proto: Callable[[], Any]) -> Any:
    message = to_proto()
    return type(value).from_proto(type(message).FromString(message.SerializeToString()))


@pytest.mark.parametrize("kind", WIRE_DATA, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_wire_data_arrives_as_it_was_sent(kind: type[Any], data: st.DataObject) -> None:
    value = data.draw(WIRE_DATA[kind])
    assert isinstance(value, kind)
    assert after_the_wire(value, value.to_proto) == value


@given(step_result)
def test_a_step_result_arrives_as_it_was_sent(result: StepResult) -> None:
    assert after_the_wire(result, lambda: result.to_proto(session_id=7)) == result


@given(st.lists(one_sampled_token, max_size=5))
def test_single_tokens_travel_in_columns(sampled: list[SampledTokens]) -> None:
    message = StepResult(step_id=1, sampled=tuple(sampled)).to_proto(session_id=7)
    assert (len(message.sampled), len(message.sampled_batch.token_ids)) == (0, len(sampled))
    assert message.session_id == 7
