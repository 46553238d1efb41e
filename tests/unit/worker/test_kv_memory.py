"""Tests of how many pages fit, and of the error if none does."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from pagoda.models.model import ModelConfig
from pagoda.process.memory import resident_bytes
from pagoda.wire.sampling import SamplingParams
from worker.errors import StartError
from worker.kernels.integer_attention import IntegerKV
from worker.kernels.select import select_kernels
from worker.kernels.step_batch import StepBatch
from worker.kv_memory import allocate_kv_memory, bytes_per_page, default_budget_bytes
from worker.steps.batch import build_batch
from worker.steps.sequence import Chunk, RunningSequence

CONFIG = ModelConfig(
    architecture="llama",
    num_layers=3,
    hidden_size=32,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    vocab_size=50,
    max_position=128,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    rope_scaling=None,
    tie_word_embeddings=True,
)


def batch_of_one_token(page_id: int, page_size: int) -> StepBatch:
    """Return a batch that writes the last slot of the page."""
    sequence = RunningSequence(
        sequence_id=1,
        attempt=1,
        token_ids=[0] * page_size,
        num_prompt_tokens=page_size,
        sampling=SamplingParams(),
        sample_index=0,
        block_table=[page_id],
    )
    start = page_size - 1
    chunk = Chunk(sequence=sequence, start=start, max_start=start, num_tokens=1, max_new_tokens=1)
    return build_batch([chunk], page_size)


@pytest.mark.parametrize("numerics", ["float32", "integer"])
def test_the_budget_is_filled_with_whole_pages_of_every_layer(numerics: str) -> None:
    kernels = select_kernels(numerics, "cpu")
    page_bytes = bytes_per_page(kernels, CONFIG, page_size=16)
    kv = allocate_kv_memory(kernels, CONFIG, page_size=16, budget_bytes=5 * page_bytes + page_bytes - 1)
    assert (kv.num_pages, kv.page_size, kv.num_bytes, len(kv.layers)) == (5, 16, 5 * page_bytes, 3)
    # Writing the last slot shows that all reported pages exist.
    k_TNH = torch.ones(1, CONFIG.num_kv_heads, CONFIG.head_size)
    kernels.write_kv(kv.layers[-1], k_TNH, k_TNH, batch_of_one_token(page_id=4, page_size=16))


def test_a_budget_below_one_page_is_refused_with_both_numbers() -> None:
    kernels = select_kernels("float32", "cpu")
    page_bytes = bytes_per_page(kernels, CONFIG, page_size=16)
    with pytest.raises(StartError, match=rf"{page_bytes - 1} bytes cannot hold a single page.*{page_bytes} bytes"):
        allocate_kv_memory(kernels, CONFIG, page_size=16, budget_bytes=page_bytes - 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux discards pages")
@pytest.mark.parametrize("kv_dtype", ["int16", "int8"])
def test_returned_pages_take_no_memory_and_the_others_keep_their_bits(kv_dtype: str) -> None:
    kernels = select_kernels("integer", "cpu", kv_dtype=kv_dtype)
    config = replace(CONFIG, num_layers=1, head_size=64)
    kv = allocate_kv_memory(kernels, config, page_size=16, budget_bytes=1 << 26)
    (layer,) = kv.layers
    assert isinstance(layer, IntegerKV)
    for tensor in (layer.integers, layer.scales):
        tensor.fill_(7)
    returned = [range(3, 4), range(100, kv.num_pages - 50)]
    before = resident_bytes()
    kv.return_pages(returned)
    assert before - resident_bytes() > 0.9 * kv.num_bytes - (1 << 23)
    kept = torch.ones(kv.num_pages, dtype=torch.bool)
    for run in returned:
        kept[run.start : run.stop] = False
    for tensor in (layer.integers, layer.scales):
        pages = tensor.view(kv.num_pages, -1)
        assert bool((pages[kept] == 7).all())
        assert bool((pages[200] == 0).all()), "the middle of a run reads as zeros"


def test_the_memory_of_other_numerics_can_be_returned_too() -> None:
    kv = allocate_kv_memory(select_kernels("float32", "cpu"), CONFIG, page_size=16, budget_bytes=1 << 20)
    kv.return_pages([range(kv.num_pages)])


GB = 1_000_000_000
TOKEN_BYTES = 100_000


@pytest.mark.parametrize(
    ("available_bytes", "values", "expected"),
    [
        (12 * GB, {}, 3 * GB),
        (20 * GB, {}, 4 * GB),
        (100 * GB, {}, 10 * GB),
        (3 * GB, {}, 1 * GB),
        (1 * GB, {}, GB // 2),
        (20 * GB, {"device": "cuda"}, 5 * GB),
        (12 * GB, {"num_workers": 3}, 1 * GB),
        (60 * GB, {"num_workers": 3}, 2 * GB),
        (12 * GB, {"max_model_len": 50_000}, 5 * GB),
        (9 * GB, {"max_model_len": 50_000}, int(2.25 * GB)),
        (60 * GB, {"max_model_len": 100}, 64 * 112 * TOKEN_BYTES),
    ],
    ids=[
        "a quarter",
        "4 GB at most",
        "a tenth of much memory",
        "1 GB of little memory",
        "half of very little",
        "a quarter of a GPU",
        "shared by three workers",
        "4 or a tenth, shared",
        "one sequence of full length",
        "no sequence of full length fits into half",
        "64 sequences of full length",
    ],
)
def test_the_default_is_what_a_laptop_accepts(available_bytes: int, values: dict[str, Any], expected: int) -> None:
    given = {"page_size": 16, "max_model_len": 10**7} | values
    assert default_budget_bytes(16 * TOKEN_BYTES, available_bytes=available_bytes, **given) == expected
