"""Tests that in the integer mode the bits of a sequence's logits do not depend on its batch or its chunks."""

from pathlib import Path

import pytest
import torch

from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_llama import make_llama, save_safetensors
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import KV_FORMATS
from worker.models.decoder import DecoderModel
from worker.models.families import load_model

KERNELS = IntegerKernels()
PROMPT = [(11 * i * i + 5 * i + 1) % 131 for i in range(70)]
OTHERS = {f"other{i}": [(i * j + 3 * j + i) % 131 for j in range(20 + 9 * i)] for i in range(17)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    return load_model(save_safetensors(make_llama(), tmp_path_factory.mktemp("tiny")), KERNELS)


@pytest.fixture(scope="module")
def alone(model: DecoderModel) -> torch.Tensor:
    return SteppedModel(model, KERNELS).run("a", PROMPT)


@pytest.mark.parametrize("chunks", [[1], [3], [7], [16], [33, 1], [64, 5, 1]], ids=str)
def test_chunks(chunks: list[int], model: DecoderModel, alone: torch.Tensor) -> None:
    assert torch.equal(SteppedModel(model, KERNELS).run("a", PROMPT, chunks), alone)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("page_size", [16, 5])
def test_places_of_pages(seed: int, page_size: int, model: DecoderModel, alone: torch.Tensor) -> None:
    stepped = SteppedModel(model, KERNELS, page_size=page_size)
    stepped.shuffle(seed)
    assert torch.equal(stepped.run("a", PROMPT), alone)


@pytest.mark.parametrize("chunk", [1, 4, 23])
def test_staggered_batch_of_eighteen(chunk: int, model: DecoderModel, alone: torch.Tensor) -> None:
    """Run other sequences that prefill, decode and end at other times, and reuse their memory for the sequence under test."""
    stepped = SteppedModel(model, KERNELS, num_pages=256)
    stepped.shuffle(3)
    waiting = {name: list(tokens) for name, tokens in OTHERS.items()}
    parts = []
    for step, start in enumerate(range(0, len(PROMPT), chunk)):
        scheduled = [(name, tokens[: 1 + (step + i) % 6]) for i, (name, tokens) in enumerate(waiting.items()) if tokens]
        place = step % (len(scheduled) + 1)
        scheduled.insert(place, ("a", PROMPT[start : start + chunk]))
        parts.append(stepped.step(scheduled, padding_blocks=step % 4)[place])
        for name, computed in scheduled:
            if name in waiting:
                waiting[name] = waiting[name][len(computed) :]
    assert torch.equal(torch.cat(parts), alone)


def test_decoding_beside_a_much_longer_sequence(model: DecoderModel, alone: torch.Tensor) -> None:
    stepped = SteppedModel(model, KERNELS)
    stepped.run("long", [i % 131 for i in range(400)])
    parts = [stepped.step([("long", [7]), ("a", [token])])[1] for token in PROMPT]
    assert torch.equal(torch.cat(parts), alone)


def test_int8_keys_and_values(tmp_path: Path) -> None:
    kernels = IntegerKernels(kv_format=KV_FORMATS["int8"])
    model = load_model(save_safetensors(make_llama(), tmp_path), kernels)
    alone = SteppedModel(model, kernels).run("a", PROMPT)
    stepped = SteppedModel(model, kernels, page_size=5)
    stepped.shuffle(1)
    stepped.run("long", [i % 131 for i in range(200)])
    parts = [stepped.step([("long", [7]), ("a", PROMPT[start : start + 9])])[1] for start in range(0, len(PROMPT), 9)]
    assert torch.equal(torch.cat(parts), alone)


def test_number_of_threads(model: DecoderModel, alone: torch.Tensor) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        assert torch.equal(SteppedModel(model, KERNELS).run("a", PROMPT, [13]), alone)
    finally:
        torch.set_num_threads(before)
