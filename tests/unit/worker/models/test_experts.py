"""Tests of mixtures of experts: the spellings of their tensors in checkpoints, and the choice of experts."""

from collections.abc import Container
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.description import describe
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.model import Model
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import FAMILIES, VOCAB_SIZE, make_model, save_gguf, save_safetensors
from tests.kernels.tiny_mixtures import MIXTURES
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Kernels
from worker.kernels.reference import ReferenceKernels
from worker.models.families import load_model

Q8_0 = gguf.GGMLQuantizationType.Q8_0
TOKEN_IDS = [(7 * i * i + 3 * i) % VOCAB_SIZE for i in range(40)]


def run(model: Model, kernels: Kernels) -> torch.Tensor:
    check_tensors(model)
    return SteppedModel(load_model(model, kernels), kernels).run("a", TOKEN_IDS)


def rewritten(model: Model, directory: Path, names: dict[str, str]) -> Model:
    """Return a copy of a checkpoint with the matrices of all experts as stacks, as transformers 5 holds them in memory.

    `names` maps the names of gate, up and down in one expert.
    """
    tensors = load_file(model.path / "model.safetensors")
    stacks: dict[str, dict[str, list[torch.Tensor]]] = {}
    for name in sorted(tensors, key=lambda name: [int(part) if part.isdigit() else -1 for part in name.split(".")]):
        block, experts, rest = name.partition(".experts.")
        if experts:
            part = names[rest.split(".", 1)[1]]
            stacks.setdefault(block, {}).setdefault(part, []).append(tensors.pop(name))
    for block, parts in stacks.items():
        gate_up = [torch.cat(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
        tensors[f"{block}.experts.gate_up_proj"] = torch.stack(gate_up)
        tensors[f"{block}.experts.down_proj"] = torch.stack(parts["down"])
    tensors = {name.replace("block_sparse_moe", "mlp"): tensor for name, tensor in tensors.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text((model.path / "config.json").read_text())
    return describe("tiny", directory, digest="1" * 64, size_bytes=1)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("mixtral", {"w1.weight": "gate", "w3.weight": "up", "w2.weight": "down"}),
        ("qwen3moe", {"gate_proj.weight": "gate", "up_proj.weight": "up", "down_proj.weight": "down"}),
    ],
)
def test_stacks_and_single_experts_are_the_same_model(family: str, names: dict[str, str], tmp_path: Path) -> None:
    single, stacked = tmp_path / "single", tmp_path / "stacked"
    stacked.mkdir()
    model = save_safetensors(make_model(FAMILIES[family]), single)
    kernels = IntegerKernels()
    assert torch.equal(run(model, kernels), run(rewritten(model, stacked, names), kernels))


def with_single_experts(model: Model, path: Path, *, quantized: Container[int] = ()) -> Model:
    """Return a copy of a Mixtral with a tensor for each expert. `quantized` are the experts that are stored as Q8_0."""
    writer = gguf.GGUFWriter(path, "llama")
    with GGUFFile(model.path) as file:
        for key, value in file.metadata.items():
            if not key.startswith("general."):
                {int: writer.add_uint32, float: writer.add_float32}[type(value)](key, value)
        for name, tensor in file.tensors.items():
            values = np.frombuffer(file.tensor_data(name), dtype=np.float32).reshape(tensor.shape).copy()
            if "_exps" not in name:
                writer.add_tensor(name, values)
                continue
            for expert, matrix in enumerate(values):
                kind = Q8_0 if expert in quantized else None
                matrix = matrix if kind is None else gguf.quants.quantize(matrix, kind)
                writer.add_tensor(name.replace("_exps", f".{expert}"), matrix, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return describe("tiny", path, digest="1" * 64, size_bytes=1)


def test_an_older_mixtral_file_has_each_expert_alone(tmp_path: Path) -> None:
    model = save_gguf(FAMILIES["mixtral"], make_model(FAMILIES["mixtral"]), tmp_path / "stacked.gguf")
    single, kernels = with_single_experts(model, tmp_path / "single.gguf"), IntegerKernels()
    assert torch.equal(run(model, kernels), run(single, kernels))


def test_floats_and_integers_in_one_layer_are_refused(tmp_path: Path) -> None:
    theirs = make_model(FAMILIES["mixtral"], hidden_size=64, intermediate_size=64)
    model = save_gguf(FAMILIES["mixtral"], theirs, tmp_path / "stacked.gguf")
    check_tensors(with_single_experts(model, tmp_path / "alike.gguf", quantized=range(5)))
    mixed = with_single_experts(model, tmp_path / "mixed.gguf", quantized=(3,))
    with pytest.raises(
        ModelFormatError, match=r"some experts of layers\.0 are stored as F32, others as Q8_0; all experts"
    ):
        check_tensors(mixed)


@pytest.mark.parametrize("family", MIXTURES)
def test_both_formats_give_the_same_bits(family: str, tmp_path: Path) -> None:
    theirs, kernels = make_model(FAMILIES[family]), IntegerKernels()
    models = save_safetensors(theirs, tmp_path), save_gguf(FAMILIES[family], theirs, tmp_path / "tiny.gguf")
    of_safetensors, of_gguf = (run(model, kernels) for model in models)
    # Numbers such as 0.3 are float32 in GGUF files and in the kernels, and double in config.json.
    assert torch.allclose(of_safetensors, of_gguf, rtol=1e-5, atol=1e-5)


def router_of(layer: Any) -> Any:
    block = layer.block_sparse_moe if hasattr(layer, "block_sparse_moe") else layer.mlp
    return block.router if hasattr(block, "router") else block.gate


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("kernels", [ReferenceKernels(), IntegerKernels()], ids=["float32", "integer"])
def test_the_router_agrees_with_transformers(family: str, kernels: Kernels) -> None:
    """Check the experts of random tokens, and their weights, with transformers' own router."""
    theirs = make_model(FAMILIES[family])
    router = router_of(theirs.model.layers[1])
    x_TD = torch.randn(200, theirs.config.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, weights_TK, experts_TK = router(x_TD)
    expected_TE = torch.zeros(200, router.weight.shape[0]).scatter_(1, experts_TK, weights_TK)
    renormalizes = getattr(theirs.config, "norm_topk_prob", True)
    packed = kernels.pack_router(router.weight.detach(), experts_TK.shape[1], renormalizes=renormalizes)
    routing_TE = kernels.route(x_TD, packed)
    assert torch.equal(routing_TE > 0, expected_TE > 0)
    assert torch.allclose(routing_TE, expected_TE, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("expert_gating_func", 2, r"expert_gating_func = 2; only 1"),
        ("expert_weights_scale", 2.5, r"expert_weights_scale = 2\.5; only 1\.0"),
        ("expert_group_count", 8, r"expert_group_count = 8; only 1"),
        ("expert_used_count", 20, r"got 9 experts, 20 used"),
        ("expert_count", 5000, r"at most 1024 experts"),
    ],
)
def test_other_routers_are_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    family = FAMILIES["qwen3moe"]
    changed = type(family)(
        name=family.name,
        architecture=family.architecture,
        config=family.config,
        metadata={**family.metadata, key: value},
    )
    with pytest.raises(ModelFormatError, match=message):
        save_gguf(changed, make_model(family), tmp_path / "tiny.gguf")


def test_a_stack_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    family = FAMILIES["qwen3moe"]
    changed = type(family)(
        name=family.name,
        architecture=family.architecture,
        config=family.config,
        metadata={**family.metadata, "expert_feed_forward_length": 32},
    )
    model = save_gguf(changed, make_model(family), tmp_path / "tiny.gguf")
    with pytest.raises(ModelFormatError, match=r"'blk\.0\.ffn_gate_exps\.weight' must have the shape \[9, 32, 48\]"):
        check_tensors(model)
