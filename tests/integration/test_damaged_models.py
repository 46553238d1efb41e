"""Tests that damaged and hostile model files load or end in a clear error, never in a crash, a hang or a huge allocation.

Files with random damage are loaded in processes of their own with little memory (tests/fakes/damaged_models.py). Others have each
kind of wrong value for each metadata key, and wrong shapes for each tensor.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.store import ModelStore
from tests.fakes.damaged_models import OUR_ERRORS, load
from tests.fakes.tiny_model import write_tiny_gguf

WRONG_VALUES = ("text", "", 0, 1, -1, 1 << 31, (1 << 64) - 1, 0.5, -1.0, float("nan"), float("inf"), True, False)
WRONG_LISTS = (["a"], ["a"] * 300, [1], [-1] * 262, [0.5] * 262, [True, False], ["a b"] * 3, [[1], [2]])
INSTEAD = [*WRONG_VALUES, *WRONG_LISTS]
ABSENT = object()


@pytest.mark.parametrize("kind", ["gguf", "part", "safetensors"])
def test_random_damage(kind: str) -> None:
    command = [sys.executable, "-m", "tests.fakes.damaged_models", kind, "0", "250"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    outcomes = json.loads(ended.stdout)
    assert outcomes["refused"] > 100
    assert outcomes["loaded"] > 10


def rewrite(source: Path, target: Path, metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Path:
    """Copy the model in `source` with other metadata, and with zeros of other shapes in place of some tensors."""
    with GGUFFile(source) as file:
        writer = gguf.GGUFWriter(target, file.metadata["general.architecture"])
        del writer.kv_data[0]["general.architecture"]
        for key, value in {**file.metadata, **metadata}.items():
            if value is not ABSENT:
                _add(writer, key, value)
        for name, tensor in file.tensors.items():
            values = np.frombuffer(file.tensor_data(name), dtype=np.float32).reshape(tensor.shape)
            shape = shapes.get(name)
            writer.add_tensor(name, values.copy() if shape is None else np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_int64 if value < 0 else writer.add_uint64)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("whole") / "tiny.gguf", num_layers=1, merges=["h e"])


def metadata_keys() -> list[str]:
    keys = ["block_count", "context_length", "embedding_length", "feed_forward_length", "rope.freq_base"]
    keys += ["attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"]
    keys += ["rope.dimension_count", "attention.key_length", "attention.value_length", "attention.sliding_window"]
    keys += ["rope.scaling.type", "rope.scaling.factor", "expert_count"]
    tokenizer = ["model", "pre", "tokens", "token_type", "merges", "scores", "bos_token_id", "eos_token_id"]
    tokenizer += ["eot_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix"]
    general = ["general.architecture", "general.alignment", "general.file_type", "split.count"]
    return [
        *(f"llama.{key}" for key in keys),
        *(f"tokenizer.ggml.{key}" for key in tokenizer),
        "tokenizer.chat_template",
        *general,
    ]


@pytest.mark.parametrize("key", metadata_keys())
def test_wrong_values_of_known_keys(key: str, whole: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    for number, value in enumerate([*INSTEAD, ABSENT]):
        load_or_refuse(store, rewrite(whole, tmp_path / f"{number}.gguf", {key: value}, {}), f"{key} = {value!r}")


@pytest.mark.parametrize("length", [0, 1, 255, 258, 1000])
def test_tokenizer_arrays_of_the_wrong_length(length: int, whole: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    with GGUFFile(whole) as file:
        arrays = {key: value for key, value in file.metadata.items() if isinstance(value, list)}
    scored = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * len(arrays["tokenizer.ggml.tokens"])}
    for kind in ({}, scored):
        for key, value in (arrays | kind).items():
            if isinstance(value, list):
                cut = (value * 5)[:length] or ABSENT
                path = rewrite(whole, tmp_path / f"{key}-{len(kind)}.gguf", {**kind, key: cut}, {})
                load_or_refuse(store, path, f"{key} of length {length}")


@pytest.mark.parametrize("shape", [(1,), (64,), (64, 63), (63, 64), (1, 64), (259, 64, 1), (2, 2, 2, 2)])
def test_tensors_of_the_wrong_shape(shape: tuple[int, ...], whole: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    with GGUFFile(whole) as file:
        names = [name for name, tensor in file.tensors.items() if tensor.shape != shape]
    for name in names:
        with pytest.raises(OUR_ERRORS):
            load(store, rewrite(whole, tmp_path / f"{name}.gguf", {}, {name: shape}))


def load_or_refuse(store: ModelStore, path: Path, damage: str) -> None:
    try:
        load(store, path)
    except OUR_ERRORS as error:
        assert str(error), damage
    except Exception as error:
        error.add_note(damage)
        raise
