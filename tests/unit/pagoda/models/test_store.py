"""The models of the store: found by name or path, with the same description from GGUF and safetensors."""

import dataclasses
import json
import os
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from pagoda.models.errors import MAX_NAMES, ModelFormatError, ModelNotFoundError, some_names
from pagoda.models.formats import gguf_rope
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.model import Model, ModelConfig, ModelFormat, RopeScaling
from pagoda.models.store import ModelStore
from tests.fakes.tiny_model import END_OF_TEXT, IM_END, write_tiny_gguf

TINY_CONFIG = ModelConfig(
    architecture="llama",
    num_layers=2,
    hidden_size=64,
    intermediate_size=128,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    vocab_size=259,
    max_position=512,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    rope_scaling=None,
    tie_word_embeddings=False,
)
LLAMA3_SCALING = RopeScaling(rope_type="llama3", factor=8.0)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def test_a_name_that_is_not_here_says_how_to_get_it(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError, match="not on this machine; download it: pagoda pull smollm2:135m"):
        store.get("smollm2")
    with pytest.raises(ModelNotFoundError, match=r"'llama9' is not .* .here: none.; download it: pagoda pull llama9"):
        store.get("llama9")
    assert store.list() == []


def test_a_name_that_is_unknown_among_hundreds_makes_no_endless_sentence() -> None:
    names = [f"model-{number}" for number in range(300)]
    assert some_names(names[:3]) == "model-0, model-1, model-2"
    assert some_names(names) == f"{', '.join(names[:MAX_NAMES])} and {300 - MAX_NAMES} more"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/dev/null", "null is not a file"), ("~nobody-here/m.gguf", "home"), ("./" + "x" * 300, "too long")],
)
def test_a_path_that_cannot_be_read_is_a_sentence(store: ModelStore, path: str, reason: str) -> None:
    with pytest.raises(ModelFormatError, match=reason):
        store.get(path)


@pytest.mark.parametrize(("weight_type", "tied"), [("F32", False), ("F16", True), ("Q8_0", False), ("Q4_1", True)])
def test_a_gguf_file_by_its_path(store: ModelStore, tmp_path: Path, weight_type: str, tied: bool) -> None:
    path = write_tiny_gguf(tmp_path / "my-model.gguf", weight_type=weight_type, tie_word_embeddings=tied)
    model = store.get(str(path))
    assert (model.name, model.path, model.format) == ("my-model", path, ModelFormat.GGUF)
    assert model.config.rms_norm_eps == pytest.approx(1e-5)  # GGUF has it in 32 bits
    assert dataclasses.replace(model.config, rms_norm_eps=1e-5) == dataclasses.replace(
        TINY_CONFIG, tie_word_embeddings=tied
    )
    assert model.eos_token_ids == (IM_END, END_OF_TEXT)
    assert model.quantization == weight_type
    assert model.size_bytes == path.stat().st_size
    reader = gguf.GGUFReader(path)
    assert model.num_parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_a_path_relative_to_the_working_directory(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    assert store.get("m.gguf") == store.get("./m.gguf")
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        store.get("n.gguf")


def test_a_changed_file_is_another_model(store: ModelStore, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", seed=0)
    before = store.get(str(path))
    write_tiny_gguf(path, seed=1)
    os.utime(path, ns=(0, before.path.stat().st_mtime_ns + 1))
    assert store.get(str(path)).digest != before.digest


def test_an_unchanged_file_is_hashed_once(tmp_path: Path) -> None:
    """A false digest in the cache shows that the file is not hashed again."""
    path = write_tiny_gguf(tmp_path / "m.gguf")
    ModelStore(tmp_path / "home").get(str(path))
    remembered = tmp_path / "home" / "models" / "digests.json"
    remembered.write_text(json.dumps(dict.fromkeys(json.loads(remembered.read_text()), "planted")))
    assert ModelStore(tmp_path / "home").get(str(path)).digest == "planted"
    remembered.write_text("damaged")
    assert len(ModelStore(tmp_path / "home").get(str(path)).digest) == 64


def test_unknown_architectures_are_named(store: ModelStore, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(
        ModelFormatError, match=r"m\.gguf: architecture 'mamba' .*: it needs Mamba layers .* \(supported .*llama"
    ):
        store.get(str(path))


def test_a_damaged_file_is_a_format_error(store: ModelStore, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFormatError, match="truncated"):
        store.get(str(path))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_heads": 3, "num_kv_heads": 2}, "cannot share"),
        ({"max_position": 0}, r"'llama.context_length' .* \(got 0\)"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    store: ModelStore, tmp_path: Path, sizes: dict[str, Any], message: str
) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", **({"hidden_size": 96} | sizes))
    with pytest.raises(ModelFormatError, match=message):
        store.get(str(path))


@pytest.mark.parametrize("first", [1.0, 2.0])
def test_llama3s_rope_scaling_is_recovered_from_its_factors(tmp_path: Path, first: float) -> None:
    _, *factors = gguf_rope.llama3_factors(LLAMA3_SCALING, 500_000.0, 128)
    stored = np.array([first, *factors], dtype=np.float32)
    path = tmp_path / "rope.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("rope_freqs.weight", stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(path) as file:
        scaling = gguf_rope.read_rope_scaling(file, "llama.", 500_000.0, 128)
    if first == 1.0:
        assert scaling == LLAMA3_SCALING
    else:
        assert scaling is not None and scaling.short_factors == scaling.long_factors == tuple(stored.tolist())


# Safetensors directories

HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 259,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 7,
}
LAYER = {
    **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (64,)),
    **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (64, 64)),
    **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (32, 64)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (128, 64)),
    "mlp.down_proj": (64, 128),
}
WEIGHTS: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (259, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (259, 64),
    **{f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in LAYER.items()},
}


def write_checkpoint(directory: Path, config: dict[str, Any], *, num_files: int = 1) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    tensors = {name: np.zeros(shape, dtype=np.float16) for name, shape in WEIGHTS.items()}
    if num_files == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {name: f"model-{place}.safetensors" for place, name in enumerate(tensors)}
    for name, file_name in weight_map.items():
        save_file({name: tensors[name]}, directory / file_name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


@pytest.mark.parametrize("num_files", [1, 2])
def test_a_safetensors_directory_by_its_path(store: ModelStore, tmp_path: Path, num_files: int) -> None:
    directory = write_checkpoint(tmp_path / "my-checkpoint", HF_CONFIG, num_files=num_files)
    (directory / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    model = store.get(str(directory))
    assert (model.name, model.path, model.format) == ("my-checkpoint", directory, ModelFormat.SAFETENSORS)
    assert model.config == TINY_CONFIG
    assert model.eos_token_ids == (9, 7)
    assert (model.quantization, model.num_parameters) == ("F16", sum(map(prod, WEIGHTS.values())))


def test_each_file_of_a_checkpoint_counts_for_its_digest(store: ModelStore, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG)
    digests: set[str] = {store.get(str(directory)).digest}
    (directory / "tokenizer_config.json").write_text("{}")
    digests.add(store.get(str(directory)).digest)
    (directory / "chat_template.jinja").write_text("a")
    digests.add(store.get(str(directory)).digest)
    assert len(digests) == 3


LLAMA3_PARAMETERS = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("settings", "theta", "scaling"),
    [
        ({}, 10_000.0, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3_PARAMETERS}, 5e5, LLAMA3_SCALING),
        ({"rope_parameters": {"rope_theta": 5e5} | LLAMA3_PARAMETERS}, 5e5, LLAMA3_SCALING),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1e4, RopeScaling(rope_type="linear", factor=2.0)),
    ],
)
def test_rope_settings_in_old_and_new_spelling(
    store: ModelStore, tmp_path: Path, settings: dict[str, Any], theta: float, scaling: RopeScaling | None
) -> None:
    model: Model = store.get(str(write_checkpoint(tmp_path / "c", HF_CONFIG | settings)))
    assert (model.config.rope_theta, model.config.rope_scaling) == (theta, scaling)


def test_a_head_size_of_its_own(store: ModelStore, tmp_path: Path) -> None:
    model = store.get(str(write_checkpoint(tmp_path / "c", HF_CONFIG | {"head_dim": 32})))
    assert model.config.head_size == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["OtherForCausalLM"]},
            "'OtherForCausalLM' is not supported .supported .*: LlamaForCausalLM",
        ),
        ({"architectures": None}, "None is not supported"),
        ({"hidden_size": "64"}, r"'hidden_size' .* \(got '64'\)"),
        ({"vocab_size": None}, "lacks 'vocab_size'"),
        ({"hidden_act": "gelu"}, "'gelu'; only 'silu'"),
        (
            {"quantization_config": {"bits": 4}},
            "quantized by an unknown method .quantization_config. are not supported",
        ),
        ({"quantization_config": {"quant_method": "hqq"}}, "weights quantized with hqq .quantization_config."),
        (
            {"rope_scaling": {"rope_type": "other", "factor": 2.0}},
            "'other' is not supported .supported: default, linear",
        ),
    ],
)
def test_a_checkpoint_that_needs_more_than_there_is(
    store: ModelStore, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        store.get(str(write_checkpoint(tmp_path / "c", HF_CONFIG | changes)))


def test_pickled_weights_are_never_opened(store: ModelStore, tmp_path: Path) -> None:
    directory = tmp_path / "pickled"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(HF_CONFIG))
    (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelFormatError, match="convert them to safetensors"):
        store.get(str(directory))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\xff" * 8, "truncated"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a JSON object"),
        (b'\x09\0\0\0\0\0\0\0{"a": {}}', "does not describe the tensor 'a'"),
    ],
)
def test_damaged_safetensors_files(store: ModelStore, tmp_path: Path, content: bytes, message: str) -> None:
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG)
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFormatError, match=message):
        store.get(str(directory))


def test_a_truncated_safetensors_file(store: ModelStore, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelFormatError, match="truncated"):
        store.get(str(directory))


def test_an_index_cannot_name_files_elsewhere(store: ModelStore, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG, num_files=2)
    save_file({"a": np.zeros(1)}, tmp_path / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFormatError, match="not in its directory"):
        store.get(str(directory))
