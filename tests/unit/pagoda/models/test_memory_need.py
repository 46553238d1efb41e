"""The memory that a model needs, from its headers, and the sentence for too little memory."""

from pathlib import Path

import pytest

from pagoda.models.formats.description import describe
from pagoda.models.memory_need import (
    PROCESS_BYTES,
    SMALLEST_CONTEXT,
    MemoryNeed,
    add_tiers,
    describe_lack,
    memory_need,
    sum_needs,
)
from pagoda.models.model import Model
from pagoda.process.memory import AvailableMemory
from tests.fakes.tiny_model import write_tiny_gguf

HIDDEN, INNER, KV_SIZE, VOCABULARY, LAYERS = 64, 128, 32, 259, 2
MATRICES = LAYERS * (2 * HIDDEN * HIDDEN + 2 * KV_SIZE * HIDDEN + 3 * INNER * HIDDEN)
NORMS = (2 * LAYERS + 1) * HIDDEN * 4
EMBEDDING = VOCABULARY * HIDDEN
NEED = MemoryNeed(weights_bytes=4_300_000_000, kv_bytes=300_000_000)


def tiny(path: Path, weight_type: str, **values: bool | int) -> Model:
    file = write_tiny_gguf(path / "tiny.gguf", weight_type=weight_type, **values)  # type: ignore[arg-type]  # the test's shorthand
    return describe("tiny", file, digest="", size_bytes=file.stat().st_size)


@pytest.mark.parametrize("tie", [True, False])
def test_a_quantized_file_is_served_in_its_own_size(tmp_path: Path, tie: bool) -> None:
    need = memory_need(tiny(tmp_path, "Q8_0", tie_word_embeddings=tie))
    assert need.weights_bytes == (MATRICES + EMBEDDING * (1 if tie else 2)) * 34 // 32 + NORMS


@pytest.mark.parametrize("weight_type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tie", [True, False])
def test_floats_are_packed_and_embeddings_keep_16_bits(tmp_path: Path, weight_type: str, tie: bool) -> None:
    """A tied output is packed beside the embedding."""
    need = memory_need(tiny(tmp_path, weight_type, tie_word_embeddings=tie))
    assert need.weights_bytes == pytest.approx((MATRICES + EMBEDDING) * 8.5 / 8 + EMBEDDING * 2 + NORMS, abs=LAYERS * 7)


def test_other_numerics_have_a_size_per_parameter(tmp_path: Path) -> None:
    model = tiny(tmp_path, "Q8_0")
    assert memory_need(model, numerics="float32").weights_bytes == 4 * model.num_parameters
    assert memory_need(model, numerics="bfloat16").weights_bytes == 2 * model.num_parameters


def test_a_model_whose_file_is_gone_counts_with_its_size(tmp_path: Path) -> None:
    model = tiny(tmp_path, "Q8_0")
    model.path.unlink()
    assert memory_need(model).weights_bytes == model.size_bytes


def test_kv_memory_is_for_a_modest_context_and_within_the_setting(tmp_path: Path) -> None:
    token_bytes = 2 * LAYERS * KV_SIZE * 2
    model = tiny(tmp_path, "Q8_0", max_position=10_000)
    assert memory_need(model).kv_bytes == SMALLEST_CONTEXT * token_bytes
    assert memory_need(model, max_model_len=100).kv_bytes == 100 * token_bytes
    assert memory_need(model, kv_memory=5000).kv_bytes == 5000
    assert memory_need(model, numerics="float32").kv_bytes == 2 * SMALLEST_CONTEXT * token_bytes


def test_needs_add_up() -> None:
    both = add_tiers(sum_needs([NEED, NEED]))
    assert both.total_bytes > 2 * NEED.total_bytes == 2 * (4_600_000_000 + PROCESS_BYTES)
    assert NEED.fits(AvailableMemory(NEED.total_bytes)) and not NEED.fits(AvailableMemory(NEED.total_bytes - 1))


def test_the_sentence_has_the_numbers_what_would_fit_and_what_to_do() -> None:
    assert describe_lack("m", NEED, AvailableMemory(3_100_000_000)) == (
        "m needs about 4.9 GB of memory (4.3 GB for weights, 300 MB for the smallest KV memory, 300 MB for the process), but "
        "3.1 GB are available. A file of up to about 2.5 GB would fit. Stop other programs, or choose a smaller model or a file "
        "of fewer bits per weight."
    )


def test_a_container_and_a_gpu_have_other_remedies() -> None:
    limited = describe_lack("m", NEED, AvailableMemory(500_000_000, 1_000_000_000))
    assert "500 MB are available within this container's limit of 1.0 GB. No model would fit." in limited
    assert "Raise the container's memory limit" in limited
    assert "the GPU" in describe_lack("m", NEED, AvailableMemory(500_000_000), "cuda")
