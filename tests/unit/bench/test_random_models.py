"""Tests of files with a public model's shapes and types: each can be read, and has the types of the model's own file."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from bench.random_models.blocks import DEVIATION, random_blocks
from bench.random_models.command import write_gguf
from bench.random_models.shapes import SHAPES, ModelShape
from bench.random_models.type_mix import type_of
from pagoda.models.formats.ggml_type import READABLE_TYPES, GGMLType
from pagoda.models.formats.gguf_config import read_config
from pagoda.models.formats.gguf_file import GGUFFile
from worker.weights.dequantize import dequantize

TINY = ModelShape(
    architecture="qwen2",
    num_layers=2,
    hidden_size=64,
    intermediate_size=512,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    vocab_size=40,
    max_position=128,
    rope_theta=1e4,
    is_tied=False,
    qkv_bias=True,
)


@pytest.mark.parametrize("name", sorted(kind.name for kind in READABLE_TYPES))
def test_random_weights_are_finite_of_the_usual_size_and_around_zero(name: str) -> None:
    ggml_type = GGMLType[name]
    blocks = random_blocks(ggml_type, 1024, np.random.default_rng(1))
    values = dequantize(memoryview(bytearray(blocks.tobytes())), ggml_type)
    assert bool(torch.isfinite(values).all())
    assert float(values.std()) == pytest.approx(DEVIATION, rel=0.1)
    assert abs(float(values.mean())) < DEVIATION / 10


def test_the_mix_stores_more_bits_where_the_quantizer_does() -> None:
    types = {t.name: type_of(t, SHAPES["qwen2.5-1.5b"], "Q4_K_M").name for t in SHAPES["qwen2.5-1.5b"].tensors()}
    assert (types["token_embd.weight"], types["output.weight"]) == ("Q4_K", "Q6_K")
    assert [i for i in range(28) if types[f"blk.{i}.attn_v.weight"] == "Q6_K"] == [
        *(0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27)
    ]
    assert types["blk.3.ffn_down.weight"] == "Q4_K"


def test_rows_that_are_no_multiple_of_256_have_blocks_of_32() -> None:
    types = {t.name: type_of(t, SHAPES["gemma3-270m"], "Q4_K_M").name for t in SHAPES["gemma3-270m"].tensors()}
    assert types["token_embd.weight"] == "Q8_0"  # Tied, so it has the output's type.
    assert (types["blk.0.attn_q.weight"], types["blk.0.attn_output.weight"]) == ("Q5_0", "Q4_K")


def test_a_written_file_has_the_model_and_a_padded_vocabulary(tmp_path: Path) -> None:
    vocabulary, path = tmp_path / "vocabulary.gguf", tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(vocabulary, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_types([1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    write_gguf(path, "tiny", TINY, "Q4_K_M", vocabulary, np.random.default_rng(1))
    with GGUFFile(path) as file:
        config = read_config(file)
        assert (config.architecture, config.num_layers, config.vocab_size) == ("qwen2", 2, 40)
        assert not config.tie_word_embeddings
        assert file.metadata["tokenizer.ggml.tokens"][:4] == ["a", "b", "ab", "<added_0>"]
        assert file.metadata["tokenizer.ggml.eos_token_id"] == 1
        assert file.tensors["blk.0.ffn_down.weight"].shape == (64, 512)
