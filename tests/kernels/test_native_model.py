"""Tests that whole models with native kernels give the logits of the torch kernels, for any chunks and any batch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.kernels.native import native_kernels, threads
from tests.kernels.stepping import SteppedModel
from tests.kernels.test_batch_invariance import OTHERS, PROMPT
from tests.kernels.tiny_families import FAMILIES, make_model, save_safetensors
from tests.kernels.tiny_llama import make_llama
from worker.kernels.integer import IntegerKernels
from worker.models.decoder import DecoderModel
from worker.models.families import load_model

NATIVE, REFERENCE = native_kernels(), IntegerKernels()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because several would wait for each other longer than they compute."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[DecoderModel, DecoderModel]:
    saved = save_safetensors(make_llama(), tmp_path_factory.mktemp("tiny"))
    return load_model(saved, NATIVE), load_model(saved, REFERENCE)


@pytest.fixture(scope="module")
def alone(models: tuple[DecoderModel, DecoderModel]) -> torch.Tensor:
    return SteppedModel(models[1], REFERENCE).run("a", PROMPT)


@pytest.mark.parametrize("chunks", [[70], [1], [3], [7], [16], [33, 1], [64, 5, 1]], ids=str)
@pytest.mark.parametrize("page_size", [16, 5])
def test_chunks(
    chunks: list[int], page_size: int, models: tuple[DecoderModel, DecoderModel], alone: torch.Tensor
) -> None:
    stepped = SteppedModel(models[0], NATIVE, page_size=page_size)
    stepped.shuffle(1)
    assert torch.equal(stepped.run("a", PROMPT, chunks), alone)


@pytest.mark.parametrize("chunk", [1, 4, 23])
def test_staggered_batch(chunk: int, models: tuple[DecoderModel, DecoderModel]) -> None:
    """Compare every sequence of every step with the same steps computed by torch."""
    native, reference = (SteppedModel(m, k, num_pages=256) for m, k in zip(models, (NATIVE, REFERENCE), strict=True))
    native.shuffle(3)
    waiting = {name: list(tokens) for name, tokens in OTHERS.items()}
    for step, start in enumerate(range(0, len(PROMPT), chunk)):
        scheduled = [(name, tokens[: 1 + (step + i) % 6]) for i, (name, tokens) in enumerate(waiting.items()) if tokens]
        scheduled.insert(step % (len(scheduled) + 1), ("a", PROMPT[start : start + chunk]))
        results = native.step(scheduled, padding_blocks=step % 4), reference.step(scheduled)
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
        for name, computed in scheduled:
            if name in waiting:
                waiting[name] = waiting[name][len(computed) :]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_number_of_threads(count: int, models: tuple[DecoderModel, DecoderModel], alone: torch.Tensor) -> None:
    with threads(count):
        assert torch.equal(SteppedModel(models[0], NATIVE).run("a", PROMPT, [13]), alone)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families(family: str, tmp_path: Path) -> None:
    """Test windows, caps, head norms, biases, gelu and scaled embeddings."""
    saved = save_safetensors(make_model(FAMILIES[family]), tmp_path)
    native, reference = (SteppedModel(load_model(saved, kernels), kernels) for kernels in (NATIVE, REFERENCE))
    assert torch.equal(native.run("a", PROMPT, [40, 1, 9]), reference.run("a", PROMPT))
