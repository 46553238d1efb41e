"""Quantized checkpoints of tiny models, with packers written from the formats' descriptions, one field at a time.

Each packer returns the tensors of a linear, by the ends of their names, and the weight that they represent.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pagoda.models.formats.description import describe
from pagoda.models.model import Model

Packed = tuple[dict[str, torch.Tensor], torch.Tensor]
Packer = Callable[[torch.Tensor], Packed]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIGS: Mapping[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False},
}


def compressed_config(name: str, **weights: Any) -> dict[str, Any]:
    inputs = {"num_bits": 8, "type": weights.get("type", "int"), "dynamic": True} if name != "pack-quantized" else None
    group = {
        "targets": ["Linear"],
        "weights": {"type": "int", "symmetric": True, **weights},
        "input_activations": inputs,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*embed.*"],
    }


def words(fields: np.ndarray[Any, Any], bits: int, axis: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return int32 words of neighbouring fields along an axis, the first field in the lowest bits."""
    in_word = 32 // bits
    fields = np.moveaxis(fields, axis, -1).astype(np.int64)
    packed = np.zeros((*fields.shape[:-1], -(-fields.shape[-1] // in_word)), dtype=np.int64)
    for index in range(fields.shape[-1]):
        place = (order or tuple(range(in_word))).index(index % in_word)
        packed[..., index // in_word] |= fields[..., index] << (bits * place)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(packed, -1, axis).astype(np.uint32)).view(np.int32))


def round_groups(
    weight: torch.Tensor, bits: int, groups: torch.Tensor, *, symmetric: bool, dtype: torch.dtype = torch.float16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return integers [O, I] from 0, zeros and scales [O, G], and the values, where `groups` has the group of each input."""
    num_groups, top = int(groups.max()) + 1, (1 << bits) - 1
    integers, values = torch.empty_like(weight), torch.empty_like(weight)
    zeros, scales = torch.empty(len(weight), num_groups), torch.empty(len(weight), num_groups, dtype=dtype)
    for group in range(num_groups):
        inside = weight[:, groups == group]
        low, high = inside.amin(dim=1).clamp(max=0), inside.amax(dim=1).clamp(min=0)
        if symmetric:
            scale, zero = 2 * torch.maximum(-low, high) / top, torch.full_like(low, (top + 1) // 2)
        else:
            scale, zero = (high - low) / top, torch.round(-low * top / (high - low))
        scales[:, group] = scale
        rounded = scales[:, group].float()[:, None]
        zeros[:, group] = zero
        integers[:, groups == group] = torch.clamp(torch.round(inside / rounded) + zero[:, None], 0, top)
        values[:, groups == group] = (integers[:, groups == group] - zero[:, None]) * rounded
    return integers, zeros, scales, values


def plain_groups(num_in: int, group_size: int | None) -> torch.Tensor:
    return torch.arange(num_in) // (group_size or num_in)


def awq(weight: torch.Tensor, *, group_size: int | None = 32, dtype: torch.dtype = torch.float16) -> Packed:
    groups = plain_groups(weight.shape[1], group_size)
    integers, zeros, scales, values = round_groups(weight, 4, groups, symmetric=False, dtype=dtype)
    parts = {
        "qweight": words(integers.T.numpy(), 4, 1, AWQ_ORDER),
        "qzeros": words(zeros.T.numpy(), 4, 1, AWQ_ORDER),
        "scales": scales.T.contiguous(),
    }
    return parts, values


def gptq(
    weight: torch.Tensor,
    *,
    bits: int = 4,
    group_size: int | None = 32,
    symmetric: bool = False,
    act_order: bool = False,
    is_v2: bool = False,
    dtype: torch.dtype = torch.float16,
) -> Packed:
    groups = plain_groups(weight.shape[1], group_size)
    if act_order:
        groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(weight.shape[0]))]
    integers, zeros, scales, values = round_groups(weight, bits, groups, symmetric=symmetric, dtype=dtype)
    zero_words = words(zeros.T.numpy(), bits, 1)
    ones = int(words(np.ones((1, 32 // bits)), bits, 1)[0, 0])
    parts = {
        "qweight": words(integers.T.numpy(), bits, 0),
        "qzeros": zero_words if is_v2 else zero_words - ones,
        "scales": scales.T.contiguous(),
        "g_idx": groups.int(),
    }
    return parts, values


def pack_quantized(
    weight: torch.Tensor,
    *,
    bits: int = 4,
    group_size: int | None = 32,
    symmetric: bool = True,
    act_order: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Packed:
    groups = plain_groups(weight.shape[1], group_size)
    if act_order:
        groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(weight.shape[0]))]
    integers, zeros, scales, values = round_groups(weight, bits, groups, symmetric=symmetric, dtype=dtype)
    parts = {
        "weight_packed": words(integers.numpy(), bits, 1),
        "weight_scale": scales,
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        parts["weight_zero_point"] = words(zeros.numpy(), bits, 0)
    if act_order:
        parts["weight_g_idx"] = groups.int()
    return parts, values


def int8(weight: torch.Tensor, *, symmetric: bool = True) -> Packed:
    groups = plain_groups(weight.shape[1], None)
    integers, zeros, scales, values = round_groups(weight, 8, groups, symmetric=symmetric, dtype=torch.bfloat16)
    parts = {"weight": (integers - 128).to(torch.int8), "weight_scale": scales}
    if not symmetric:
        parts["weight_zero_point"] = (zeros - 128).to(torch.int8)
    return parts, values


def fp8(weight: torch.Tensor, *, block: tuple[int, int] | None = None, per_row: bool = True) -> Packed:
    rows, columns = block or ((1, weight.shape[1]) if per_row else tuple(weight.shape))
    num_rows, num_columns = -(-weight.shape[0] // rows), -(-weight.shape[1] // columns)
    scales = torch.empty(num_rows, num_columns)
    stored, values = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty_like(weight)
    for i in range(num_rows):
        for j in range(num_columns):
            inside = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scales[i, j] = weight[inside].abs().max() / 448
            stored[inside] = (weight[inside] / scales[i, j]).to(torch.float8_e4m3fn)
            values[inside] = stored[inside].float() * scales[i, j]
    if block is not None:
        return {"weight": stored, "weight_scale_inv": scales}, values
    return {"weight": stored, "weight_scale": scales if per_row else scales.view(1)}, values


def save_quantized(
    model: Any,
    directory: Path,
    config: Mapping[str, Any],
    pack: Packer,
    *,
    packs_output: bool = False,
    leave_out: tuple[str, ...] = (),
) -> Model:
    """Write a checkpoint whose linears are packed, and give `model` the weights that they represent."""
    model.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    for name, parameter in model.named_parameters():
        is_linear = "_proj" in name or (packs_output and name.startswith("lm_head"))
        if not is_linear or not name.endswith(".weight") or any(each in name for each in leave_out):
            continue
        parts, values = pack(parameter.detach())
        del tensors[name]
        tensors |= {name.removesuffix("weight") + part: tensor.contiguous() for part, tensor in parts.items()}
        with torch.no_grad():
            parameter.copy_(values)
    save_file(tensors, directory / "model.safetensors")
    change_config(directory, quantization_config=dict(config))
    return describe("tiny", directory, digest="0" * 64, size_bytes=1)


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
