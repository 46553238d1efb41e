"""Reads the rotary base and its scaling from a Hugging Face checkpoint's config.json, as transformers' modeling_rope_utils does."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.rope_scaling import yarn_attention_factor
from pagoda.models.model import RopeScaling


def read_rope(config: Mapping[str, Any], max_position: int) -> tuple[float, RopeScaling | None]:
    """Return the rotary base and its scaling.

    Older files have `rope_theta` and `rope_scaling`; newer ones have both in `rope_parameters`, possibly per layer type. As in
    transformers, `rope_scaling` has precedence.
    """
    parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
    original = config.get("original_max_position_embeddings")
    if isinstance(parameters, dict) and "full_attention" in parameters:
        parameters, original = parameters["full_attention"] or {}, None
    if not isinstance(parameters, dict):
        raise ModelFormatError("the rope parameters in the model's config.json must be an object")
    if original is not None:
        # A number outside the rope parameters has precedence, and its ratio to max_position_embeddings is the factor.
        parameters = {**parameters, "original_max_position_embeddings": original}
    theta = values.number(parameters, "rope_theta", values.number(config, "rope_theta"))
    return theta, _scaling(parameters, max_position)


def _scaling(parameters: Mapping[str, Any], max_position: int) -> RopeScaling | None:
    rope_type = parameters.get("rope_type") or parameters.get("type") or "default"
    if rope_type in ("su", "yarn") and parameters.get("long_factor"):
        rope_type = "longrope"  # Phi-3's first names for it.
    # Without images, the three positions of "mrope" are equal.
    if rope_type in ("default", "none", "mrope"):
        return None
    if not isinstance(rope_type, str) or rope_type not in _READERS:
        raise ModelFormatError(
            f"rope scaling {rope_type!r} is not supported (supported: default, {', '.join(_READERS)})"
        )
    return _READERS[rope_type](parameters, max_position)


def _linear(parameters: Mapping[str, Any], max_position: int) -> RopeScaling | None:
    factor = values.number(parameters, "factor")
    return None if factor == 1.0 else RopeScaling(rope_type="linear", factor=factor)


def _llama3(parameters: Mapping[str, Any], max_position: int) -> RopeScaling:
    return RopeScaling(
        rope_type="llama3",
        factor=values.number(parameters, "factor"),
        low_freq_factor=values.number(parameters, "low_freq_factor"),
        high_freq_factor=values.number(parameters, "high_freq_factor"),
        original_max_position=_original(parameters, max_position),
    )


def _dynamic(parameters: Mapping[str, Any], max_position: int) -> RopeScaling | None:
    factor = values.number(parameters, "factor")
    return (
        None if factor == 1.0 else RopeScaling(rope_type="dynamic", factor=factor, original_max_position=max_position)
    )


def _yarn(parameters: Mapping[str, Any], max_position: int) -> RopeScaling:
    original = _original(parameters, max_position)
    factor = values.number(parameters, "factor", max_position / original)
    usual = yarn_attention_factor(
        factor,
        values.optional_number(parameters, "mscale") or 0,
        values.optional_number(parameters, "mscale_all_dim") or 0,
    )
    return RopeScaling(
        rope_type="yarn",
        factor=factor,
        original_max_position=original,
        attention_factor=values.number(parameters, "attention_factor", usual),
        beta_fast=values.optional_number(parameters, "beta_fast") or 32.0,
        beta_slow=values.optional_number(parameters, "beta_slow") or 1.0,
        truncate=values.flag(parameters, "truncate", True),
    )


def _longrope(parameters: Mapping[str, Any], max_position: int) -> RopeScaling:
    original = _original(parameters, max_position)
    factor = values.number(parameters, "factor", max_position / original)
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    return RopeScaling(
        rope_type="longrope",
        factor=factor,
        original_max_position=original,
        attention_factor=values.number(parameters, "attention_factor", usual),
        short_factors=_factors(parameters, "short_factor"),
        long_factors=_factors(parameters, "long_factor"),
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], int], RopeScaling | None]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "dynamic": _dynamic,
}


def _original(parameters: Mapping[str, Any], max_position: int) -> int:
    return values.count(parameters, "original_max_position_embeddings", max_position)


def _factors(parameters: Mapping[str, Any], key: str) -> tuple[float, ...]:
    factors = parameters.get(key)
    if not isinstance(factors, list):
        raise ModelFormatError(f"{key!r} in the model's rope parameters must be a list of numbers")
    return tuple(values.number({key: factor}, key) for factor in factors)
