"""The mixtures of experts among the tiny families, and their stacks of matrices as llama.cpp's converter splits them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

GRANITE_NUMBERS: Mapping[str, float] = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.3,
    "logits_scaling": 4.0,
}
GRANITE_METADATA: Mapping[str, Any] = {
    "embedding_scale": 3.0,
    "residual_scale": 0.5,
    "attention.scale": 0.3,
    "logit_scale": 4.0,
}
ROPE: Mapping[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
WIDE: Mapping[str, Any] = {"hidden_size": 96, "head_dim": None, **ROPE}

MIXTURES: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {
        "name": "Mixtral",
        "architecture": "llama",
        "config": {"num_local_experts": 5, "num_experts_per_tok": 2, **ROPE},
        "metadata": {"expert_count": 5, "expert_used_count": 2},
        "has_interleaved_rope": True,
    },
    "qwen2moe": {
        "name": "Qwen2Moe",
        "architecture": "qwen2moe",
        "config": {
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            **WIDE,
        },
        "metadata": {
            "expert_count": 7,
            "expert_used_count": 3,
            "expert_feed_forward_length": 24,
            "expert_shared_feed_forward_length": 40,
        },
    },
    "qwen3moe": {
        "name": "Qwen3Moe",
        "architecture": "qwen3moe",
        "config": {
            "num_experts": 9,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            **ROPE,
        },
        "metadata": {"expert_count": 9, "expert_used_count": 4, "expert_feed_forward_length": 40},
    },
    "olmoe": {
        "name": "Olmoe",
        "architecture": "olmoe",
        "config": {"num_experts": 6, "num_experts_per_tok": 3, **WIDE},
        "metadata": {"expert_count": 6, "expert_used_count": 3},
    },
    "granitemoe": {
        "name": "GraniteMoe",
        "architecture": "granitemoe",
        "config": {"num_local_experts": 5, "num_experts_per_tok": 2, **GRANITE_NUMBERS, **WIDE},
        "metadata": {"expert_count": 5, "expert_used_count": 2, **GRANITE_METADATA},
        "has_interleaved_rope": True,
    },
    "granitemoeshared": {
        "name": "GraniteMoeShared",
        "architecture": "granitemoe",
        "config": {
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 56,
            **GRANITE_NUMBERS,
            **WIDE,
        },
        "metadata": {
            "expert_count": 5,
            "expert_used_count": 2,
            "expert_shared_feed_forward_length": 56,
            **GRANITE_METADATA,
        },
        "has_interleaved_rope": True,
    },
}
"""Arguments of TinyFamily."""


def gguf_tensors(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a tensor of transformers as llama.cpp's converter has it: gate and up apart, under the names that it knows."""
    name = name.replace("block_sparse_moe.router.weight", "block_sparse_moe.router.layer.weight")
    if name.endswith(".experts.gate_up_proj"):
        gate, up = tensor.chunk(2, dim=1)
        yield name.replace("block_sparse_moe", "mlp").replace("gate_up_proj", "gate_proj.weight"), gate
        yield name.replace("block_sparse_moe", "mlp").replace("gate_up_proj", "up_proj.weight"), up
    elif name.endswith(".experts.down_proj"):
        yield f"{name.replace('block_sparse_moe', 'mlp')}.weight", tensor
    elif name.endswith(".shared_mlp.input_linear.weight"):
        gate, up = tensor.chunk(2, dim=0)
        yield name.replace("shared_mlp.input_linear", "mlp.shared_expert.gate_proj"), gate
        yield name.replace("shared_mlp.input_linear", "mlp.shared_expert.up_proj"), up
    else:
        yield name, tensor.flatten() if "shared_expert_gate" in name else tensor
