"""A model that could not be loaded is refused from the headers of its files, with the tensor's name and the reason."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from pagoda.models.errors import ModelFormatError, without_directories
from pagoda.models.formats.description import describe
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.model import Model
from tests.fakes.tiny_model import write_tiny_gguf
from tests.integration.test_damaged_models import rewrite

HIDDEN, INNER, VOCABULARY, HEAD = 32, 48, 64, 8
Shapes = dict[str, tuple[int, ...]]


def described(path: Path) -> Model:
    return describe("m", path, digest="", size_bytes=0)


def shapes_of(num_layers: int = 2) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (16, HIDDEN) for name in "kv"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": (HIDDEN, INNER)}
        shapes |= {f"{prefix}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return shapes


def checkpoint(directory: Path, shapes: Shapes, dtype: Any = np.float16, **config: Any) -> Model:
    directory.mkdir()
    content = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        **config,
    }
    (directory / "config.json").write_text(json.dumps(content))
    save_file({name: np.zeros(shape, dtype=dtype) for name, shape in shapes.items()}, directory / "model.safetensors")
    return described(directory)


def biases(names: str, size: int) -> Shapes:
    return {f"model.layers.{layer}.self_attn.{name}_proj.bias": (size,) for layer in range(2) for name in names}


def test_whole_models_pass(tmp_path: Path) -> None:
    check_tensors(checkpoint(tmp_path / "c", shapes_of()))
    check_tensors(described(write_tiny_gguf(tmp_path / "m.gguf")))
    check_tensors(described(write_tiny_gguf(tmp_path / "q.gguf", weight_type="Q8_0", tie_word_embeddings=True)))


def test_an_output_beside_tied_embeddings_is_left_alone(tmp_path: Path) -> None:
    check_tensors(checkpoint(tmp_path / "c", shapes_of(), tie_word_embeddings=True))


@pytest.mark.parametrize("name", shapes_of())
def test_a_missing_tensor(name: str, tmp_path: Path) -> None:
    shapes = {other: shape for other, shape in shapes_of().items() if other != name}
    if name == "model.layers.1.mlp.up_proj.weight":
        shapes["padding.weight"] = (INNER, HIDDEN)
    with pytest.raises(ModelFormatError, match=rf"the tensor '{name}' is missing|larger model than the tensors"):
        check_tensors(checkpoint(tmp_path / "c", shapes))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"lm_head.weight": (VOCABULARY, HIDDEN + 1)},
            r"'lm_head.weight' must have the shape \[64, 32\] \(got \[64, 33\]\)",
        ),
        ({"model.embed_tokens.weight": (VOCABULARY - 1, HIDDEN)}, r"shape .* \(got \[63, 32\]\)"),
        ({"model.norm.weight": (HIDDEN, 1)}, r"shape .* \(got \[32, 1\]\)"),
        ({"model.layers.0.mlp.extra.weight": (3,)}, "does not use: model.layers.0.mlp.extra.weight"),
        ({"model.layers.2.input_layernorm.weight": (HIDDEN,)}, "does not use: model.layers.2"),
        (biases("q", HIDDEN), "does not use: model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_other_tensors_than_the_configuration_says(changed: Shapes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=message):
        check_tensors(checkpoint(tmp_path / "c", shapes_of() | changed))


def test_biases_are_those_of_the_configuration(tmp_path: Path) -> None:
    with_biases = shapes_of() | biases("qo", HIDDEN) | biases("kv", 16)
    check_tensors(checkpoint(tmp_path / "a", with_biases, attention_bias=True))
    with pytest.raises(ModelFormatError, match=r"q_proj\.bias' is missing|[qkvo]_proj\.bias' is missing"):
        check_tensors(checkpoint(tmp_path / "b", shapes_of(), attention_bias=True))
    qwen2 = shapes_of() | biases("q", HIDDEN) | biases("kv", 16)
    check_tensors(checkpoint(tmp_path / "q", qwen2, architectures=["Qwen2ForCausalLM"]))
    with pytest.raises(ModelFormatError, match="bias' is missing"):
        check_tensors(checkpoint(tmp_path / "w", shapes_of(), architectures=["Qwen2ForCausalLM"]))


def test_numbers_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFormatError, match=r"has the type I8, which is not supported .supported: F64, F32, F16, BF16"
    ):
        check_tensors(checkpoint(tmp_path / "c", shapes_of(), dtype=np.int8))


def test_a_type_without_a_decoder(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf", hidden_size=256)
    with GGUFFile(whole) as file:
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        for key, value in file.metadata.items():
            if key.startswith("llama."):
                (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
        for name, tensor in file.tensors.items():
            values = np.frombuffer(file.tensor_data(name), dtype=np.float32).reshape(tensor.shape)
            if name == "blk.0.attn_q.weight":
                raw = np.zeros((256, 98), dtype=np.uint8)
                writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.IQ3_XXS)
            else:
                writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFormatError, match=r"'blk.0.attn_q.weight' has the type IQ3_XXS, which is not supported"):
        check_tensors(described(tmp_path / "m.gguf"))


@pytest.mark.parametrize(("heads", "refused"), [(1, True), (4, False)])
def test_heads_that_no_model_has(heads: int, refused: bool, tmp_path: Path) -> None:
    path = write_tiny_gguf(
        tmp_path / "m.gguf", hidden_size=2048, num_heads=heads, num_kv_heads=1, num_layers=1, intermediate_size=8
    )
    if not refused:
        check_tensors(described(path))
        return
    with pytest.raises(ModelFormatError, match=r"heads must have a size of at most 1024 \(got 2048\)"):
        described(path)


def test_more_tokens_than_the_embedding_has_rows(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf")
    path = rewrite(whole, tmp_path / "m.gguf", {}, {"token_embd.weight": (200, 64), "output.weight": (200, 64)})
    with pytest.raises(ModelFormatError, match="259 tokens, but there are 200 embeddings"):
        check_tensors(described(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/you/.pagoda/models/a/latest/model.gguf: the tensor is missing", "model.gguf: the tensor is missing"),
        ("'m' cannot be loaded: /a/b/c.gguf: bad", "'m' cannot be loaded: c.gguf: bad"),
        ("/my models/x y/m.gguf is damaged", "m.gguf is damaged"),
        ("only 1 / sqrt(8) is supported, not 3/4 or 5/6", "only 1 / sqrt(8) is supported, not 3/4 or 5/6"),
        ("there is no file '/a/b c/d'", "there is no file 'd'"),
        ("the model 'org/name' is unknown", "the model 'org/name' is unknown"),
    ],
)
def test_no_sentence_says_where_files_lie(text: str, expected: str) -> None:
    assert without_directories(text) == expected
