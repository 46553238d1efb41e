"""Tests of the rows' workloads, and of their rooflines against values worked out by hand."""

import pytest

from bench.peers.roofline import Ceilings, ModelSize, best_tokens_per_s, decode_step_s, model_size
from bench.peers.rows import Row, rows
from bench.workloads import PlannedRequest, RandomWorkload, SharedPrefixWorkload, Vocabulary
from pagoda.models.model import ModelConfig

SIZE = ModelSize(layer_weights=9_000_000, head_weights=1_000_000, kv_elements_per_token=1_000)


def row(concurrency: int, *, num_requests: int = 4, input_len: int = 100, output_len: int = 11) -> Row:
    workload = RandomWorkload(num_requests=num_requests, input_len=input_len, output_len=output_len)
    return Row(name="a row", workload=workload, concurrency=concurrency)


def prompts(requests: list[PlannedRequest]) -> set[tuple[int, ...]]:
    return {tuple(request.prompt) for request in requests}  # type: ignore[arg-type]  # The default vocabulary gives token ids.


def test_a_small_run_still_fills_each_row() -> None:
    assert all(row.workload.num_requests == row.concurrency for row in rows(scale=0))
    assert sum(row.workload.num_requests for row in rows()) > sum(row.workload.num_requests for row in rows(0.5))


def test_no_prompt_is_asked_twice_in_a_run() -> None:
    vocabulary = Vocabulary()
    asked: list[set[tuple[int, ...]]] = [
        prompts(workload.requests(vocabulary))
        for row in rows(scale=0)
        for number in range(2)
        for workload in (row.warm_up(number), row.in_round(number))
    ]
    assert len(set.union(*asked)) == sum(map(len, asked))


def test_what_is_shared_is_computed_once() -> None:
    shared = SharedPrefixWorkload(num_requests=10, num_prefixes=4, prefix_len=512, suffix_len=64, output_len=32)
    of_shared = Row(name="shared", workload=shared, concurrency=8)
    assert of_shared.num_computed_prompt_tokens == 4 * 512 + 10 * 64
    assert (of_shared.input_len, of_shared.max_sequence_len) == (576, 608)
    assert row(1).num_computed_prompt_tokens == 400


def test_alone_the_bytes_bound_a_step_and_among_many_the_operations() -> None:
    ceilings = Ceilings(read_bytes_per_s=1e9, int8_operations_per_s=100e9)
    # The step reads 10 MB of weights, and the keys and values of 105.5 tokens.
    assert decode_step_s(row(1), SIZE, 1.0, ceilings) == pytest.approx((10e6 + 105.5 * 2000) / 1e9)
    assert decode_step_s(row(1), SIZE, 2.0, ceilings) == pytest.approx((20e6 + 105.5 * 2000) / 1e9)
    slow_to_compute = Ceilings(read_bytes_per_s=1e12, int8_operations_per_s=100e9)
    assert decode_step_s(row(32), SIZE, 1.0, slow_to_compute) == pytest.approx(2 * 10e6 * 32 / 100e9)


def test_a_row_takes_its_prompts_and_its_steps() -> None:
    ceilings = Ceilings(read_bytes_per_s=1e9, int8_operations_per_s=100e9)
    prefill_s = (2 * 9e6 * 400 + 2 * 1e6 * 4) / 100e9
    seconds = prefill_s + 40 * decode_step_s(row(1), SIZE, 1.0, ceilings)
    assert best_tokens_per_s(row(1), SIZE, 1.0, ceilings) == pytest.approx(44 / seconds)


def test_the_size_of_the_default_model() -> None:
    config = ModelConfig(
        architecture="llama",
        num_layers=30,
        hidden_size=576,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_size=64,
        vocab_size=49152,
        max_position=8192,
        rms_norm_eps=1e-5,
        rope_theta=1e5,
        rope_scaling=None,
        tie_word_embeddings=True,
    )
    size = model_size(config)
    norms = (2 * 30 + 1) * 576
    assert size.layer_weights + size.head_weights + norms == 134_515_008
    assert size.kv_elements_per_token == 11_520
