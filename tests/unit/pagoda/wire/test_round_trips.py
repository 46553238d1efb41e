"""Wire data survives a round trip through protobuf bytes, for every type and every value of its fields."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from pagoda.wire.constraint import Constraint, Marker, Reasoning
from pagoda.wire.events import Event, Moved, PromptLogprobs, Started, Tokens, events_from_proto, events_to_proto
from pagoda.wire.finished import Finished, FinishReason, Timings, Usage
from pagoda.wire.inference_request import InferenceRequest, ResumedSample
from pagoda.wire.load import PrefixIndexLoad, QueueLoad, SchedulerLoad, WorkerLoad
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.loadable_models import LoadableModel, LoadableModels
from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.model_info import ModelInfo
from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from protos.v1 import inference_pb2
from tests.unit.pagoda.wire.wire_types import field_names, wire_types

FIRST_FOUND = settings(database=None, derandomize=True, deadline=None, phases=[Phase.generate])

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
float64 = st.floats(allow_nan=False)
float32 = st.floats(width=32, allow_nan=False)
names = st.text(max_size=3)
token_ids = st.lists(uint32, max_size=4).map(tuple)
optional_uint32 = st.none() | uint32

logprobs = st.builds(TokenLogprobs, logprob=float32, top=st.lists(st.tuples(uint32, float32), max_size=3).map(tuple))
some_logprobs = st.lists(logprobs, max_size=3).map(tuple)
marker = st.builds(Marker, text=st.binary(max_size=3), token_id=optional_uint32)
reasoning = st.builds(
    Reasoning,
    open=marker,
    is_open=st.booleans(),
    close=marker,
    budget=optional_uint32,
    closing_token_ids=token_ids,
)
constraint = st.builds(
    Constraint,
    grammar=names,
    digest=st.binary(max_size=3),
    reasoning=st.none() | reasoning,
    triggers=st.lists(marker, max_size=2).map(tuple),
    triggers_in_reasoning=st.booleans(),
)
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
    constraint=st.none() | constraint,
    allowed_token_ids=token_ids,
    bad_words=st.lists(token_ids, max_size=3).map(tuple),
    logprob_token_ids=token_ids,
)
# Only a stopped sequence has a stop token.
stops = st.tuples(st.just(False), st.none()) | st.tuples(st.just(True), optional_uint32, st.booleans())
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
resumed_sample = st.builds(ResumedSample, sample_index=uint32, generated_token_ids=token_ids, is_finished=st.booleans())
request = st.builds(
    InferenceRequest,
    request_id=names,
    model=names,
    prompt_token_ids=token_ids,
    sampling=sampling,
    num_samples=st.integers(1, 2**32 - 1),
    tenant=names,
    priority=st.integers(-(2**31), 2**31 - 1),
    timeout_s=st.none() | st.integers(1, 10**9).map(lambda milliseconds: milliseconds / 1000),
    cache_salt=names,
    resumed=st.lists(resumed_sample, max_size=3).map(tuple),
    traceparent=names,
    tracestate=names,
    group_id=names,
    keep_alive_s=st.none() | float64,
    keep_alive_only_prolongs=st.booleans(),
)

sample = {"request_id": names, "sample_index": uint32}
started = st.builds(Started, **sample, worker_id=names, num_cached_tokens=uint32)
tokens = st.builds(Tokens, **sample, token_ids=token_ids, logprobs=some_logprobs, sequence_number=uint64)
prompt_logprobs = st.builds(PromptLogprobs, request_id=names, start=uint32, logprobs=some_logprobs)
moved = st.builds(Moved, **sample, from_worker_id=names, to_worker_id=names)
usage = st.builds(Usage, num_prompt_tokens=uint32, num_cached_tokens=uint32, num_output_tokens=uint32)
timings = st.builds(Timings, queue_s=float64, prefill_s=float64, decode_s=float64, num_preemptions=uint32)
finished = st.builds(
    Finished,
    **sample,
    reason=st.sampled_from(FinishReason),
    stop_token_id=optional_uint32,
    usage=usage,
    timings=timings,
)
one_token = st.builds(Tokens, **sample, token_ids=st.tuples(uint32), logprobs=st.just(()), sequence_number=uint64)

worker_load = st.builds(
    WorkerLoad,
    worker_id=names,
    model=names,
    device=names,
    numerics_id=names,
    num_running=uint32,
    page_size=uint32,
    num_pages_free=uint32,
    num_pages_cached=uint32,
    num_pages_used=uint32,
    weights_bytes=uint64,
    kv_bytes=uint64,
)
queue_load = st.builds(QueueLoad, model=names, tenant=names, num_waiting=uint32, oldest_s=float64, next_position=uint32)
index_load = st.builds(
    PrefixIndexLoad,
    num_published_blocks=uint64,
    num_dropped_blocks=uint64,
    breaker_state=st.sampled_from(inference_pb2.BreakerState.values()),
)
scheduler_load = st.builds(
    SchedulerLoad,
    workers=st.lists(worker_load, max_size=2).map(tuple),
    queues=st.lists(queue_load, max_size=2).map(tuple),
    prefix_index=index_load,
    is_draining=st.booleans(),
    queue_drain_per_s=float64,
    num_waiting=uint32,
    num_running=uint32,
    num_pending_tokens=uint64,
    num_steps=uint64,
    num_step_tokens=uint64,
    num_preemptions=uint64,
    num_prefix_queries=uint64,
    num_prefix_hits=uint64,
    num_model_loads=uint64,
    num_failed_model_loads=uint64,
    num_model_unloads=uint64,
    model_load_s=float64,
)
load_progress = st.builds(LoadProgress, completed_bytes=uint64, total_bytes=uint64)
model_info = st.builds(
    ModelInfo,
    name=names,
    digest=names,
    max_model_len=uint32,
    num_workers=uint32,
    num_unloaded_workers=uint32,
    device=names,
    expires_in_s=st.none() | float64,
    page_size=uint32,
    loading=st.none() | load_progress,
)

loadable_model = st.builds(
    LoadableModel,
    name=names,
    digest=names,
    page_size=uint32,
    max_model_len=uint32,
    vocab_size=uint32,
    needed_bytes=uint64,
)
loadable_models = st.builds(
    LoadableModels,
    models=st.lists(loadable_model, max_size=2).map(tuple),
    host_id=names,
    available_bytes=st.none() | uint64,
    home_model=st.none() | st.text(min_size=1, max_size=3),
    checks_memory=st.booleans(),
)

WIRE_DATA: dict[type[Any], st.SearchStrategy[Any]] = {
    TokenLogprobs: logprobs,
    Marker: marker,
    Reasoning: reasoning,
    Constraint: constraint,
    SamplingParams: sampling,
    SampledTokens: sampled_tokens,
    ScoredTokens: scored_tokens,
    ResumedSample: resumed_sample,
    InferenceRequest: request,
    Started: started,
    Tokens: tokens,
    PromptLogprobs: prompt_logprobs,
    Moved: moved,
    Usage: usage,
    Timings: timings,
    Finished: finished,
    WorkerLoad: worker_load,
    QueueLoad: queue_load,
    PrefixIndexLoad: index_load,
    SchedulerLoad: scheduler_load,
    LoadProgress: load_progress,
    ModelInfo: model_info,
    LoadableModel: loadable_model,
    LoadableModels: loadable_models,
}


def test_every_type_is_tried() -> None:
    # A step's result also needs a session id, so it has a separate test.
    assert {*WIRE_DATA, StepResult} == {*wire_types()}


FIELDS = [(kind, name) for kind in WIRE_DATA for name in field_names(kind)]
FIELDS += [(StepResult, name) for name in field_names(StepResult)]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_field_takes_several_values(kind: type[Any], name: str) -> None:
    """A field that always has its default would arrive unchanged even if it were never sent."""
    values = {**WIRE_DATA, StepResult: step_result}[kind].map(lambda value: getattr(value, name))
    try:
        find(st.tuples(values, values), lambda pair: pair[0] != pair[1], settings=FIRST_FOUND)
    except NoSuchExample:
        pytest.fail(f"the strategy of {kind.__name__} never gives `{name}` another value: name the field there")


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


@pytest.mark.parametrize("reason", FinishReason)
def test_a_finish_reason_has_one_number(reason: FinishReason) -> None:
    assert FinishReason.from_proto(reason.to_proto()) is reason


@given(st.lists(started | tokens | one_token | prompt_logprobs | moved | finished, max_size=6))
def test_events_arrive_in_order_however_they_are_packed(events: list[Event]) -> None:
    messages = [type(each).FromString(each.SerializeToString()) for each in events_to_proto(events)]
    assert [event for message in messages for event in events_from_proto(message)] == events


def test_an_event_of_a_later_version_is_left_out() -> None:
    assert list(events_from_proto(inference_pb2.GenerateResponse())) == []
