"""Tests of the GPU's kernels, in Triton's interpreter, against their reference implementations in torch."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.attention_batch import NUM_PAGES, attention_batch
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import FAMILIES, make_model, save_safetensors
from worker.kernels.interface import Kernels
from worker.kernels.reference import ReferenceKernels
from worker.kernels.step_batch import StepBatch
from worker.models.families import load_model

pytest.importorskip("triton", reason="Triton is made for Linux only")

from worker.kernels.triton.kernels import TritonKernels
from worker.kernels.triton.launch_plan import plan_launches
from worker.kernels.triton.paged_decode import SPLIT_KEYS

CPU = torch.device("cpu")
REFERENCE = ReferenceKernels()
TOLERANCES = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Tolerances relative to the largest number: the reference rounds neither queries nor weights to the format of KV memory."""

Plan = Sequence[tuple[int, int]]
"""A plan, with (queries of this step, length of the context including them) for each sequence."""
MIXED: Plan = [(5, 21), (1, 16), (1, 1), (16, 16), (2, 90)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


class Pages:
    """The keys and values of a plan, in memory that holds NaN elsewhere."""

    def __init__(self, plan: Plan, heads: tuple[int, int, int], page_size: int, dtype: torch.dtype) -> None:
        self.num_heads, self.num_kv_heads, self.head_size = heads
        self.page_size = page_size
        self.kernels = TritonKernels(CPU, dtype)
        self.batch, self.whole = attention_batch(plan, page_size)
        # Keys and values are views of wider rows, as layers make them: queries, keys and values side by side.
        qkv = random(len(self.whole.slots_T), self.num_heads + 2 * self.num_kv_heads, self.head_size)
        _, self.k_TNH, self.v_TNH = qkv.tensor_split([self.num_heads, self.num_heads + self.num_kv_heads], dim=1)
        qk = random(len(self.batch.slots_T), self.num_heads + self.num_kv_heads, self.head_size, seed=1) * 3
        self.q_TNH = qk[:, : self.num_heads]
        # The reference writes them, because the interpreter takes some milliseconds per token.
        self.kv = self._written_by(REFERENCE).to(dtype)

    def written(self) -> torch.Tensor:
        return self._written_by(self.kernels)

    def attention(self, window: int | None = None, logit_cap: float | None = None) -> torch.Tensor:
        return self.kernels.attention(self.q_TNH, self.kv, self.batch, self.head_size**-0.5, window, logit_cap)

    def expected_attention(self, window: int | None = None, logit_cap: float | None = None) -> torch.Tensor:
        kv = self.kv.float().nan_to_num()
        return REFERENCE.attention(self.q_TNH, kv, self.batch, self.head_size**-0.5, window, logit_cap)

    def _written_by(self, kernels: Kernels) -> torch.Tensor:
        kv = kernels.allocate_kv(NUM_PAGES, self.page_size, self.num_kv_heads, self.head_size)
        assert isinstance(kv, torch.Tensor)
        kv.fill_(math.nan)
        kernels.write_kv(kv, self.k_TNH, self.v_TNH, self.whole)
        return kv


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("heads", "page_size"), [((6, 2, 8), 16), ((7, 1, 80), 7), ((3, 3, 96), 1)])
def test_written_keys_and_values(dtype: torch.dtype, heads: tuple[int, int, int], page_size: int) -> None:
    pages = Pages([(9, 40), (1, 17)], heads, page_size, dtype)
    # The interpreter truncates to bfloat16 where GPUs round: a difference of up to one step in the last of its eight bits.
    step = 2**-7 if dtype == torch.bfloat16 else 0.0
    assert torch.allclose(pages.written(), pages.kv, rtol=step, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("plan", [MIXED, [(1, 40), (1, 540)], [(70, 75)]], ids=str)
def test_attention_in_each_format(dtype: torch.dtype, plan: Plan) -> None:
    pages = Pages(plan, (6, 2, 64), 16, dtype)
    assert near(pages.attention(), pages.expected_attention(), TOLERANCES[dtype])


@pytest.mark.parametrize("head_size", [8, 64, 80, 96, 128, 256])
@pytest.mark.parametrize(("group", "page_size"), [(1, 16), (3, 7), (8, 32)])
def test_head_sizes_and_groups(head_size: int, group: int, page_size: int) -> None:
    pages = Pages([(3, 33), (1, 50)], (2 * group, 2, head_size), page_size, torch.bfloat16)
    assert near(pages.attention(), pages.expected_attention(), TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize(("window", "logit_cap"), [(1, None), (20, 2.0), (64, None), (530, None), (None, 2.0)])
def test_windows_and_caps(window: int | None, logit_cap: float | None) -> None:
    """Test windows and caps; the longest window touches three splits and fills one."""
    pages = Pages([(1, 1050), (1, 40), (40, 130)], (2, 1, 16), 16, torch.float32)
    expected = pages.expected_attention(window, logit_cap)
    assert near(pages.attention(window, logit_cap), expected, TOLERANCES[torch.float32])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 60)), min_size=1, max_size=3),
    group=st.integers(1, 8),
    num_kv_heads=st.integers(1, 3),
    head_size=st.sampled_from([2, 24, 64, 80]),
    page_size=st.integers(1, 20),
    window=st.none() | st.integers(1, 80),
    logit_cap=st.none() | st.just(5.0),
)
def test_any_shape(
    plan: list[tuple[int, int]],
    group: int,
    num_kv_heads: int,
    head_size: int,
    page_size: int,
    window: int | None,
    logit_cap: float | None,
) -> None:
    ended = [(queries, before + queries) for queries, before in plan]
    pages = Pages(ended, (group * num_kv_heads, num_kv_heads, head_size), page_size, torch.float32)
    expected = pages.expected_attention(window, logit_cap)
    assert near(pages.attention(window, logit_cap), expected, TOLERANCES[torch.float32])


@pytest.mark.parametrize("window", [None, 50])
def test_the_same_bits_alone_as_in_company(window: int | None) -> None:
    """Compare a decode over two splits and a chunk of a prefill, each alone and beside others."""
    pages = Pages([(1, SPLIT_KEYS + 9), (1, 7), (30, 90), (3, 3)], (2, 1, 16), 16, torch.bfloat16)
    together = pages.attention(window)
    for sequence in range(4):
        start, end = pages.batch.query_starts[sequence : sequence + 2]
        batch = only(pages.batch, sequence)
        alone = pages.kernels.attention(pages.q_TNH[start:end], pages.kv, batch, 0.25, window)
        assert torch.equal(alone, together[start:end])


def only(batch: StepBatch, sequence: int) -> StepBatch:
    start, end = batch.query_starts[sequence : sequence + 2]
    return StepBatch(
        token_ids_T=batch.token_ids_T[start:end],
        positions_T=batch.positions_T[start:end],
        slots_T=batch.slots_T[start:end],
        query_starts=(0, end - start),
        context_lens=batch.context_lens[sequence : sequence + 1],
        block_tables_SB=batch.block_tables_SB[sequence : sequence + 1],
        sample_rows_R=batch.sample_rows_R[start:end],
    )


def test_plan_names_each_query_once() -> None:
    batch, _ = attention_batch(MIXED, 16)
    plan = plan_launches(batch, tile_tokens=4)
    assert plan.decodes_D3.tolist() == [[1, 5, 16], [2, 6, 1]]
    assert plan.max_context == 16
    assert plan.tiles_W4.tolist() == [
        [0, 0, 4, 16],
        [0, 4, 1, 20],
        *[[3, 7 + start, 4, start] for start in range(0, 16, 4)],
        [4, 23, 2, 88],
    ]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str)
@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_whole_models(name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    """Prefill in chunks and then decode, beside another sequence. Gemma 2 has windows and caps."""
    checkpoint = save_safetensors(make_model(FAMILIES[name]), tmp_path)
    results = []
    for kernels in (TritonKernels(CPU, dtype), REFERENCE):
        stepped = SteppedModel(load_model(checkpoint, kernels), kernels)
        stepped.shuffle(1)
        prompt = [(7 * i * i + i) % 131 for i in range(40)]
        steps = [[("a", prompt[:33])], [("b", prompt[:5]), ("a", prompt[33:])], [("a", [3]), ("b", [4])]]
        results.append(torch.cat([logits for step in steps for logits in stepped.step(step)]))
    assert near(results[0], results[1], tolerance)


def test_numerics_id_names_the_formats() -> None:
    assert TritonKernels(CPU).numerics_id == "triton-bf16-kv-bf16-1"
    assert not TritonKernels(CPU).is_batch_invariant


def test_kv_bytes_are_what_is_allocated() -> None:
    kernels = TritonKernels(CPU)
    kv = kernels.allocate_kv(5, 16, 3, 64)
    assert isinstance(kv, torch.Tensor)
    assert kv.nbytes == 5 * kernels.kv_bytes_per_page(16, 3, 64)
