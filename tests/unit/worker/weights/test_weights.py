"""Tests of checkpoints: the bits of block formats, the names of tensors, and refused files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.description import describe
from pagoda.models.formats.ggml_type import READABLE_TYPES, GGMLType
from pagoda.models.formats.tensor_names import GGUF_NAMES, SAFETENSORS_NAMES, map_names
from tests.fakes.tiny_model import write_tiny_gguf
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_llama import make_llama, save_gguf, save_safetensors
from worker.kernels.reference import ReferenceKernels
from worker.models.families import load_model, open_checkpoint
from worker.weights import dequantize as dequantize_module
from worker.weights.checkpoint import WeightsError
from worker.weights.dequantize import DECODERS, GROUPED, UnsupportedTypeError, dequantize, stored_blocks
from worker.weights.grouped import GroupedWeight


def random_blocks(kind: Any, num_blocks: int) -> np.ndarray[Any, Any]:
    """Return random bytes, so that scales have any size and sign, and some are infinite or NaN."""
    generator = np.random.default_rng(0)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return generator.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)


@pytest.mark.parametrize("name", [kind.name for kind in DECODERS])
def test_dequantizes_bit_for_bit_like_gguf(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = gguf.GGMLQuantizationType[name]
    data = random_blocks(kind, 500)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = gguf.quants.dequantize(data, kind).reshape(-1)
    monkeypatch.setattr(dequantize_module, "VALUES_PER_PASS", 256 * 7)  # several passes, the last one shorter
    actual = dequantize(memoryview(bytearray(data.tobytes())), GGMLType[name]).numpy()
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.isnan(actual), ~numbers)
    assert np.array_equal(actual.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


@pytest.mark.parametrize("is_gguf", [True, False])
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_progress_of_a_load_rises_to_the_size_of_the_tensors(is_gguf: bool, is_tied: bool, tmp_path: Path) -> None:
    if is_gguf:
        path = write_tiny_gguf(tmp_path / "tiny.gguf", tie_word_embeddings=is_tied, rope_factor=2.0)
        model = describe("tiny", path, digest="", size_bytes=0)
    else:
        model = save_safetensors(make_llama(tie_word_embeddings=is_tied), tmp_path)
    reports: list[tuple[int, int]] = []
    load_model(model, ReferenceKernels(), on_progress=lambda *report: reports.append(report))
    completed, totals = zip(*reports, strict=True)
    assert list(completed) == sorted(set(completed)) and len(completed) > 10
    assert set(totals) == {completed[-1]}
    assert totals[0] == pytest.approx(4 * model.num_parameters, rel=0.01)


@pytest.mark.parametrize("kind", GROUPED)
def test_rows_of_integers_are_in_our_order(kind: GGMLType) -> None:
    data = random_blocks(gguf.GGMLQuantizationType[kind.name], 12)
    expected = dequantize(memoryview(bytearray(data.tobytes())), kind).view(3, -1)
    order_O = torch.tensor([2, 0, 1])
    weight = stored_blocks(memoryview(bytearray(data.tobytes())), kind, (3, expected.shape[1]), order_O).unpack()
    assert isinstance(weight, GroupedWeight)
    assert torch.equal(weight.dequantize().nan_to_num(), expected[order_O].nan_to_num())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_linears_as_they_are_in_a_file_have_its_values_in_our_order(kind: str, tmp_path: Path) -> None:
    llama = make_llama(hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, head_dim=64)
    described = save_safetensors(llama, tmp_path / "safetensors")
    model = save_gguf(llama, described, tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[kind])
    with open_checkpoint(model) as checkpoint:
        for name in ("layers.0.q.weight", "layers.0.k.weight", "layers.0.v.weight", "layers.0.down.weight"):
            as_it_is = checkpoint.read_matrix(name)
            assert as_it_is.format.name == kind
            assert torch.equal(as_it_is.dequantize(), checkpoint.read(name))
            assert torch.equal(as_it_is.dequantize(3, 9), checkpoint.read(name)[3:9])
            del as_it_is


@pytest.mark.parametrize("kind", ["F32", "Q4_1", "Q8_0"])
def test_tensors_in_parts_have_the_bits_of_the_whole_file(kind: str, tmp_path: Path) -> None:
    paths = (
        write_tiny_gguf(tmp_path / "whole.gguf", weight_type=kind),
        write_tiny_gguf(tmp_path / "parts.gguf", weight_type=kind, tensors_per_part=5, first_part_is_empty=True),
    )
    models = [describe("m", path, digest="", size_bytes=0) for path in paths]
    with open_checkpoint(models[0]) as whole, open_checkpoint(models[1]) as parts:
        assert list(parts.names) == list(whole.names) and not parts.unknown
        for name in whole.names:
            assert torch.equal(parts.read(name), whole.read(name))
            if whole.read(name).dim() == 2:
                assert torch.equal(parts.read_matrix(name).dequantize(), whole.read_matrix(name).dequantize())
    one, several = (
        SteppedModel(load_model(model, ReferenceKernels()), ReferenceKernels()).run("a", [1, 2, 3]) for model in models
    )
    assert torch.equal(one, several)


def test_unreadable_type_names_the_readable_ones() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"IQ2_XXS.*Q4_0"):
        dequantize(memoryview(bytearray(66)), GGMLType.IQ2_XXS)


@pytest.mark.parametrize("table", [GGUF_NAMES, SAFETENSORS_NAMES])
def test_names_are_found_in_any_layer(table: dict[str, str]) -> None:
    spelled = [name.replace("{i}", str(i)) for name in table for i in (0, 17)]
    known, unknown = map_names(spelled, table)
    assert not unknown
    assert set(known) == {ours.replace("{i}", str(i)) for ours in table.values() for i in (0, 17)}


def test_unknown_names_are_reported_and_rope_buffers_ignored() -> None:
    spelled = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.x.mlp.up_proj.weight", "score.weight"]
    assert map_names(spelled, SAFETENSORS_NAMES) == ({}, spelled[1:])


def change_tensors(directory: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(directory / "model.safetensors") | change
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    change_tensors(tmp_path, {"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(WeightsError, match=r"no tensor 'layers\.1\.up\.weight'"):
        load_model(model, ReferenceKernels())


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight"])
def test_left_over_tensor_is_named(name: str, tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    change_tensors(tmp_path, {name: torch.zeros(3)})
    with pytest.raises(WeightsError, match=rf"does not use: {name}"):
        load_model(model, ReferenceKernels())


def test_wrong_shape_is_reported_with_both_shapes(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    change_tensors(tmp_path, {"model.norm.weight": torch.zeros(7)})
    with pytest.raises(WeightsError, match=r"'model\.norm\.weight' has shape \[7\], but the model needs \[48\]"):
        load_model(model, ReferenceKernels())


def test_output_weight_of_a_tied_model_is_not_needed(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(tie_word_embeddings=True), tmp_path)
    change_tensors(tmp_path, {"lm_head.weight": torch.zeros(131, 48)})
    load_model(model, ReferenceKernels())


def test_pickle_is_never_opened(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match="pickle"):
        load_model(model, ReferenceKernels())


def test_index_may_not_leave_its_directory(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path / "model")
    outside = tmp_path / "model.safetensors"
    (tmp_path / "model" / "model.safetensors").rename(outside)
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFormatError, match=r"\.\./model\.safetensors"):
        load_model(model, ReferenceKernels())


def test_truncated_safetensors_is_reported(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFormatError, match="is truncated"):
        load_model(model, ReferenceKernels())


def test_safetensors_that_are_not_aligned_are_read(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    path = tmp_path / "model.safetensors"
    with open_checkpoint(model) as checkpoint:
        expected = {name: checkpoint.read(name) for name in checkpoint.names}
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name in header.keys() - {"__metadata__"}:
        header[name]["data_offsets"] = [offset + 1 for offset in header[name]["data_offsets"]]
    changed = json.dumps(header).encode()
    changed += b" " * (-len(changed) % 8)
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + b"x" + data[8 + size :])
    with open_checkpoint(model) as checkpoint:
        for name, tensor in expected.items():
            assert torch.equal(checkpoint.read(name), tensor)
            if tensor.dim() == 2:
                assert torch.equal(checkpoint.read_matrix(name).dequantize(), tensor)


def test_gguf_tensor_of_unreadable_type_is_named(tmp_path: Path) -> None:
    llama = make_llama(hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, head_dim=64)
    described = save_safetensors(llama, tmp_path / "safetensors")
    model = save_gguf(llama, described, tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.TQ2_0)
    with pytest.raises(WeightsError, match=r"'token_embd\.weight': unsupported tensor type TQ2_0"):
        load_model(replace(model, name="ternary"), ReferenceKernels())


def test_what_the_description_calls_readable_has_a_decoder() -> None:
    assert set(DECODERS) == READABLE_TYPES
