"""The description of a mixture of experts, which several families share.

A router chooses some experts for each token by the softmax of its scores. Families that choose in another way, such as DeepSeek's
and gpt-oss's, are not supported yet; their keys are refused.
"""

from collections.abc import Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.family import Fields
from pagoda.models.model import ExpertsConfig, ModelConfig

MAX_EXPERTS = 1024
"""Largest number of experts of a layer, twice that of any model."""
SOFTMAX = 1
"""llama.cpp's number for a softmax of the router's scores."""
EXPERT_KEYS = frozenset(("expert_count",))


def hf_experts(content: Mapping[str, Any], size_key: str, *, renormalizes: bool | None = None, **fields: Any) -> Fields:
    """Return the experts of config.json. If `renormalizes` is None, the file says it."""
    key = "num_local_experts" if content.get("num_local_experts") is not None else "num_experts"
    if renormalizes is None:
        renormalizes = values.flag(content, "norm_topk_prob")
    return _checked(
        num_experts=values.count(content, key),
        num_used=values.count(content, "num_experts_per_tok"),
        intermediate_size=values.count(content, size_key),
        renormalizes=renormalizes,
        **fields,
    )


def _checked(**fields: Any) -> Fields:
    experts = ExpertsConfig(**fields)
    if experts.num_experts > MAX_EXPERTS or experts.num_used > experts.num_experts:
        raise ModelFormatError(
            f"a layer must have at most {MAX_EXPERTS} experts, and no more may be used for a token than there are "
            f"(got {experts.num_experts} experts, {experts.num_used} used)"
        )
    return {"experts": experts}


def gguf_experts(
    config: ModelConfig,
    metadata: Mapping[str, Any],
    *,
    renormalizes: bool,
    gates_shared: bool = False,
    divides_size: bool = False,
) -> Fields:
    """Return the experts of a GGUF file. Whether weights are renormalised follows from the architecture, unless a key says it.

    A file without the experts' size has experts of the intermediate size, divided among those of a token if `divides_size`.
    """
    prefix = f"{config.architecture}."
    values.require(metadata, f"{prefix}expert_gating_func", SOFTMAX, unused=0)
    values.require(metadata, f"{prefix}expert_weights_scale", 1.0, unused=0)
    for key in ("expert_group_count", "expert_group_used_count"):
        values.require(metadata, prefix + key, 1, unused=0)
    num_used = values.count(metadata, f"{prefix}expert_used_count")
    size = config.intermediate_size // num_used if divides_size else config.intermediate_size
    shared = values.optional_count(metadata, f"{prefix}expert_shared_feed_forward_length")
    if gates_shared and shared is None:
        shared = config.intermediate_size
    return _checked(
        num_experts=values.count(metadata, f"{prefix}expert_count"),
        num_used=num_used,
        intermediate_size=values.count(metadata, f"{prefix}expert_feed_forward_length", size),
        renormalizes=values.flag(metadata, f"{prefix}expert_weights_norm", renormalizes),
        shared_size=shared or 0,
        gates_shared=gates_shared,
    )
