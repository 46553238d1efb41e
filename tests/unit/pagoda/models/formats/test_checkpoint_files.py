"""The files of a safetensors checkpoint in a directory: which are weights, which are copied, and why a directory is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.description import describe, files_to_copy, model_files
from pagoda.models.formats.safetensors_file import INDEX_NAME, read_all_tensors, weight_files
from pagoda.models.formats.tensor_check import check_tensors
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_store import HF_CONFIG, WEIGHTS, write_checkpoint


def write(directory: Path, *names: str) -> Path:
    """Write files, each of them weights with one tensor of its own."""
    for place, name in enumerate(names):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({f"t{place}": np.zeros(2, dtype=np.float16)}, path)
    return directory


def write_index(directory: Path, *names: str) -> None:
    weight_map = {f"t{place}": name for place, name in enumerate(names)}
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


def chosen(directory: Path) -> list[str]:
    return [path.name for path in weight_files(directory)]


def test_only_files_of_the_index_are_weights(tmp_path: Path) -> None:
    parts = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    write(
        tmp_path, *parts, "model.safetensors", "extra.safetensors", "consolidated.safetensors", "original/a.safetensors"
    )
    write_index(tmp_path, *parts)
    assert chosen(tmp_path) == list(parts)
    assert list(read_all_tensors(tmp_path)) == ["t0", "t1"]


def test_a_file_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, "a.safetensors", "model.safetensors")
    write_index(tmp_path, "a.safetensors", "b.safetensors")
    with pytest.raises(
        ModelFormatError, match=r"index\.json names the file 'b.safetensors', which is not in its directory"
    ):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("model.safetensors", "model.fp16.safetensors", "extra.safetensors"), ["model.safetensors"]),
        (("b.safetensors", "a.safetensors", "original/c.safetensors"), ["a.safetensors", "b.safetensors"]),
        (("weights.safetensors", "consolidated.safetensors", "adapter_model.safetensors"), ["weights.safetensors"]),
        (("weights.safetensors", "pytorch_model.bin"), ["weights.safetensors"]),
    ],
    ids=["model", "all", "other formats", "pickles"],
)
def test_weights_without_an_index(tmp_path: Path, names: tuple[str, ...], expected: list[str]) -> None:
    assert chosen(write(tmp_path, *names)) == expected


def test_a_checkpoint_in_several_files_without_an_index(tmp_path: Path) -> None:
    """vLLM and transformers load it, too."""
    whole = describe("m", write_checkpoint(tmp_path / "whole", HF_CONFIG), digest="", size_bytes=0)
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG, num_files=2)
    (directory / INDEX_NAME).unlink()
    model = describe("m", directory, digest="", size_bytes=0)
    check_tensors(model)
    assert (model.config, model.num_parameters) == (whole.config, whole.num_parameters)


def test_a_tensor_may_be_in_one_file_only(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG, num_files=2)
    save_file({"model.norm.weight": np.zeros(64, dtype=np.float16)}, directory / "z.safetensors")
    describe("m", directory, digest="", size_bytes=0)  # the index does not name the file
    (directory / INDEX_NAME).unlink()
    with pytest.raises(
        ModelFormatError, match=r"z\.safetensors has the tensor 'model\.norm\.weight', which is also in"
    ):
        describe("m", directory, digest="", size_bytes=0)
    assert "model.norm.weight" in WEIGHTS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["consolidated.safetensors", "params.json"], "only weights in the Mistral format .consolidated.safetensors."),
        (["consolidated-00001-of-00002.safetensors"], "only weights in the Mistral format"),
        (["adapter_model.safetensors", "adapter_config.json"], "is an adapter .adapter_model.safetensors.; merge it"),
        (["pytorch_model.bin"], "only pickled weights .pytorch_model.bin., which can run code"),
        (["training_args.bin", "model.pt", "optimizer.pt"], "only pickled weights .model.pt., which can run code"),
        (["consolidated.00.pth"], "only pickled weights .consolidated.00.pth."),
        (["training_args.bin", "config.json"], "has no .safetensors file$"),
        ([], "has no .safetensors file$"),
    ],
    ids=["mistral", "mistral in parts", "adapter", "bin", "pt", "pth", "training only", "empty"],
)
def test_directories_without_weights_that_can_be_read(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelFormatError, match=message):
        model_files(tmp_path)


def test_a_directory_with_a_gguf_file_names_it(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    with pytest.raises(ModelFormatError, match=r"to use a GGUF file, name the file itself, such as m\.gguf"):
        model_files(tmp_path)


def test_other_weights_are_not_copied(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", HF_CONFIG, num_files=2)
    copied = [path.name for path in files_to_copy(directory)]
    write(directory, "consolidated.safetensors", "extra.safetensors", "original/model.safetensors", "m.bin")
    (directory / "README.md").write_text("")
    (directory / "tokenizer.model").write_text("")
    assert [path.name for path in files_to_copy(directory)] == sorted([*copied[:2], "tokenizer.model"]) + copied[2:]
