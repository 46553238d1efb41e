"""The consequences of a rope scaling, whatever file states it. hf_rope.py and gguf_rope.py read scalings."""

import math

from pagoda.models.errors import ModelFormatError
from pagoda.models.model import ModelConfig, RopeScaling

MAX_FACTOR = 1 << 20
"""Largest factor of a scaling, far above that of any model. It keeps what is computed from it finite."""


def extended_max_position(max_position: int, scaling: RopeScaling | None) -> int:
    """Return the longest sequence of a model: YaRN and dynamic scaling extend what its file states, as in vLLM."""
    match scaling:
        case RopeScaling(rope_type="yarn" | "dynamic"):
            return max(max_position, int(scaling.original_max_position * min(scaling.factor, MAX_FACTOR)))
    return max_position


def check_rope(config: ModelConfig) -> None:
    """Raise ModelFormatError if the scaling does not fit the number of rotated elements of a head."""
    scaling, size = config.rope_scaling, config.rotary_size or config.head_size
    if scaling is None:
        return
    if not 0 < scaling.factor <= MAX_FACTOR:
        raise ModelFormatError(f"the factor of the rope scaling must be at most {MAX_FACTOR} (got {scaling.factor})")
    if scaling.rope_type == "yarn" and config.rope_theta <= 1:
        raise ModelFormatError(f"YaRN needs a rotary base above 1 (got {config.rope_theta})")
    for factors in (scaling.short_factors, scaling.long_factors):
        if scaling.rope_type == "longrope" and len(factors) != size // 2:
            raise ModelFormatError(
                f"longrope needs {size // 2} short and long factors, one for each pair of rotated elements (got {len(factors)})"
            )
    if scaling.rope_type == "dynamic" and size < 4:
        raise ModelFormatError(f"dynamic rope scaling needs at least 4 rotated elements of a head (got {size})")


def yarn_attention_factor(factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0) -> float:
    """Return YaRN's usual factor of cosines and sines. 0 means that `mscale` and `mscale_all_dim` are not given."""
    if mscale and mscale_all_dim:
        return _magnitude(factor, mscale) / _magnitude(factor, mscale_all_dim)
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
