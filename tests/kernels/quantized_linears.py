"""Single linears of quantized checkpoints, in each format, packed by tiny_quantized.py."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pagoda.models.formats.quantization.config import quantization_of
from pagoda.models.formats.quantization.linears import CheckpointTensors, join_tensors
from pagoda.models.formats.safetensors_file import SafetensorsTensor
from tests.kernels.tiny_quantized import CONFIGS, Packer, awq, compressed_config, fp8, gptq, int8, pack_quantized
from worker.weights.linear_format import StoredWeight
from worker.weights.quantized.stored_linear import stored_linear

AWQ, GPTQ = CONFIGS["awq"], CONFIGS["gptq"]
GROUPS = {"strategy": "group", "group_size": 32}
DTYPES = {
    torch.int32: "I32",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
}
CASES: Mapping[str, tuple[dict[str, Any], Packer]] = {
    "awq": (AWQ, awq),
    "gptq": (GPTQ, gptq),
    "gptq, act-order": (GPTQ | {"desc_act": True}, partial(gptq, act_order=True)),
    "gptq, act-order, groups of 64": (GPTQ | {"group_size": 64}, partial(gptq, act_order=True, group_size=64)),
    "gptq, 8 bits": (GPTQ | {"bits": 8}, partial(gptq, bits=8)),
    "w4a16": (compressed_config("pack-quantized", num_bits=4, **GROUPS), pack_quantized),
    "w4a16, zeros": (
        compressed_config("pack-quantized", num_bits=4, symmetric=False, **GROUPS),
        partial(pack_quantized, symmetric=False),
    ),
    "w8a8": (compressed_config("int-quantized", num_bits=8, strategy="channel"), int8),
    "fp8, blocks": ({"quant_method": "fp8", "weight_block_size": [32, 64]}, partial(fp8, block=(32, 64))),
}


def join(config: dict[str, Any], parts: Mapping[str, torch.Tensor]) -> CheckpointTensors:
    tensors = {
        f"a.b.{part}": SafetensorsTensor(dtype=DTYPES[each.dtype], shape=tuple(each.shape), path=Path("/"), offset=0)
        for part, each in parts.items()
    }
    return join_tensors(tensors, quantization_of({"quantization_config": config}))


def load(
    config: dict[str, Any], parts: Mapping[str, torch.Tensor], row_order: torch.Tensor | None = None
) -> StoredWeight:
    return stored_linear(join(config, parts).linears["a.b.weight"], parts, row_order)
