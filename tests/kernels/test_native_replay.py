"""Tests that a step replayed with other sequences, sizes and memory gives the bits of a model without recording."""

from pathlib import Path

import pytest
import torch

from tests.kernels.native import native_kernels, threads
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import FAMILIES, make_model, save_safetensors
from worker.kernels.interface import Forward
from worker.kernels.native.kernels import NativeIntegerKernels
from worker.layers import rope
from worker.models.decoder import DecoderModel
from worker.models.families import load_model

RECORDED = native_kernels()


class EagerKernels(NativeIntegerKernels):
    def prepare(self, forward: Forward) -> Forward:
        return forward


EAGER = EagerKernels(RECORDED._library)


@pytest.fixture(scope="module", params=["qwen3", "gemma3", "qwen2moe"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DecoderModel, DecoderModel]:
    saved = save_safetensors(make_model(FAMILIES[request.param]), tmp_path_factory.mktemp("tiny"))
    return load_model(saved, RECORDED), load_model(saved, EAGER)


def test_steps_of_many_sizes(models: tuple[DecoderModel, DecoderModel]) -> None:
    """Test steps that are larger than the memory so far, then so small that memory is released, then in between."""
    recorded, eager = (SteppedModel(m, k) for m, k in zip(models, (RECORDED, EAGER), strict=True))
    for step, sizes in enumerate(((1,), (3,), (2, 1), (70,), (200,) * 4, (1,), (1,), (65,), (4,))):
        scheduled = [(f"{step}-{i}", [(7 * t + i) % 90 for t in range(size)]) for i, size in enumerate(sizes)]
        scheduled.append(("long-lived", [step, sizes[0] % 90]))
        results = recorded.step(scheduled), eager.step(scheduled)
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_other_kv_memory_is_another_recording(models: tuple[DecoderModel, DecoderModel]) -> None:
    first, second = (SteppedModel(models[0], RECORDED) for _ in range(2))
    expected = first.run("a", list(range(40)))
    assert torch.equal(second.run("a", list(range(40)), [11]), expected)
    assert torch.equal(first.step([("a", [5])])[0], second.step([("a", [5])])[0])


def test_threads_may_change_between_steps(models: tuple[DecoderModel, DecoderModel]) -> None:
    stepped = SteppedModel(models[0], RECORDED)
    results = []
    for index, count in enumerate((1, 3, 2)):
        with threads(count):
            results.append(stepped.run(f"{index}", list(range(50))))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_table_of_positions_that_grows_is_recorded_again(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_safetensors(make_model(FAMILIES[family], max_position_embeddings=4096), tmp_path)
    token_ids = [(11 * i + 5) % 90 for i in range(1100)]
    whole = SteppedModel(load_model(saved, EAGER), EAGER).run("a", token_ids, [700, 399, 1])
    monkeypatch.setattr(rope, "FIRST_BYTES", 0)
    assert torch.equal(SteppedModel(load_model(saved, RECORDED), RECORDED).run("a", token_ids, [700, 399, 1]), whole)
