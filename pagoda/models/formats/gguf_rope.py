"""Reads the scaling of the rotary frequencies from a GGUF file, as llama.cpp does.

GGUF stores Llama 3's scaling as a tensor of factors and not as its parameters, and longrope's two lists as tensors, too.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.gguf_file import GGMLType, GGUFFile
from pagoda.models.formats.rope_scaling import yarn_attention_factor
from pagoda.models.model import RopeScaling

ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TENSORS = (ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS)
TYPES = ("none", "linear", "yarn", "longrope")
WITH_LOG_MULTIPLIER = ("mistral3.",)
"""Architectures for which llama.cpp reads transformers' `mscale_all_dim`, with 1 for `mscale`."""
READ_ONLY_BY_YARN = {
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": 1.0,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
}
"""Keys after `rope.scaling.`, with values that other types of scaling may have. 0 also means "not used"."""


def read_rope_scaling(file: GGUFFile, prefix: str, rope_theta: float, rotary_size: int) -> RopeScaling | None:
    """Return the rope scaling. A factor without a type is linear, and the factor has an older key too."""
    metadata, keys = file.metadata, f"{prefix}rope.scaling."
    factors = {name: _read_factors(file, name, rotary_size // 2) for name in FACTOR_TENSORS if name in file.tensors}
    rope_type = "longrope" if LONG_FACTORS in factors else metadata.get(f"{keys}type", "linear")
    if rope_type not in TYPES:
        raise ModelFormatError(
            f"rope scaling {rope_type!r} is not supported (supported in GGUF: {', '.join(TYPES)} and factors as of Llama 3)"
        )
    factor = values.optional_number(metadata, f"{keys}factor")
    factor = factor or values.optional_number(metadata, f"{prefix}rope.scale_linear")
    if factor is None and f"{keys}type" in metadata and rope_type in ("linear", "yarn"):
        raise ModelFormatError(f"the model's metadata lacks {f'{keys}factor'!r}")
    if rope_type != "yarn":
        for key, usual in READ_ONLY_BY_YARN.items():
            values.require(metadata, keys + key, usual, unused=0)
    if ROPE_FACTORS in factors and (rope_type not in ("none", "linear") or factor not in (None, 1.0)):
        raise ModelFormatError(
            f"tensor {ROPE_FACTORS!r} together with rope scaling {rope_type!r} by {factor} is not supported"
        )
    if rope_type == "longrope":
        return _longrope(metadata, prefix, factors, factor)
    if rope_type == "yarn":
        return _yarn(metadata, prefix, factor or 1.0)
    values.require(metadata, f"{keys}attn_factor", 1.0, unused=0)
    if ROPE_FACTORS in factors:
        return _llama3(factors[ROPE_FACTORS], rope_theta, rotary_size)
    if rope_type == "linear" and factor not in (None, 1.0):
        return RopeScaling(rope_type="linear", factor=factor)
    return None


def _yarn(metadata: Mapping[str, Any], prefix: str, factor: float) -> RopeScaling:
    keys = f"{prefix}rope.scaling."
    usual = yarn_attention_factor(factor)
    if prefix in WITH_LOG_MULTIPLIER:
        multiplier = values.optional_number(metadata, f"{keys}yarn_log_multiplier") or 0.0
        usual = yarn_attention_factor(factor, 1.0, multiplier)
    else:
        values.require(metadata, f"{keys}yarn_log_multiplier", 0.0)
    extrapolation = metadata.get(f"{keys}yarn_ext_factor")
    if (
        not isinstance(extrapolation, int | float) or not extrapolation < 0
    ):  # llama.cpp: a negative number is the default
        values.require(metadata, f"{keys}yarn_ext_factor", 1.0)
    # llama.cpp computes the factor whatever the file states, so another one has no clear meaning.
    stated = values.number(metadata, f"{keys}yarn_attn_factor", 1.0)
    if stated != 1.0 and not close(stated, usual):
        raise ModelFormatError(
            f"the model requires {keys}yarn_attn_factor = {stated}; only {usual:.4g}, which follows from the factor, is supported"
        )
    return RopeScaling(
        rope_type="yarn",
        factor=factor,
        original_max_position=_original(metadata, prefix),
        attention_factor=usual * (values.optional_number(metadata, f"{keys}attn_factor") or 1.0),
        beta_fast=values.number(metadata, f"{keys}yarn_beta_fast", 32.0),
        beta_slow=values.number(metadata, f"{keys}yarn_beta_slow", 1.0),
    )


def _longrope(
    metadata: Mapping[str, Any], prefix: str, factors: Mapping[str, tuple[float, ...]], factor: float | None
) -> RopeScaling:
    for name in (LONG_FACTORS, SHORT_FACTORS):
        if name not in factors:
            raise ModelFormatError(f"the model has rope scaling 'longrope', but no tensor {name!r}")
    original, max_position = _original(metadata, prefix), values.count(metadata, f"{prefix}context_length")
    return RopeScaling(
        rope_type="longrope",
        factor=factor or max_position / original,
        original_max_position=original,
        attention_factor=values.optional_number(metadata, f"{prefix}rope.scaling.attn_factor") or 1.0,
        short_factors=factors[SHORT_FACTORS],
        long_factors=factors[LONG_FACTORS],
    )


def _original(metadata: Mapping[str, Any], prefix: str) -> int:
    given = values.optional_count(metadata, f"{prefix}rope.scaling.original_context_length")
    return given or values.count(metadata, f"{prefix}context_length")


def _llama3(stored: tuple[float, ...], rope_theta: float, size: int) -> RopeScaling:
    """Return the parameters that give the stored factors. All published Llama 3 models differ only in `factor`."""
    scaling = RopeScaling(rope_type="llama3", factor=round(stored[-1], 4))
    if all(map(close, stored, llama3_factors(scaling, rope_theta, size))):
        return scaling
    # Any other list of divisors is longrope's with the same list for all lengths.
    return RopeScaling(rope_type="longrope", factor=1.0, short_factors=stored, long_factors=stored)


def _read_factors(file: GGUFFile, name: str, num_pairs: int) -> tuple[float, ...]:
    tensor = file.tensors[name]
    if tensor.ggml_type is not GGMLType.F32 or tensor.shape != (num_pairs,):
        raise ModelFormatError(f"tensor {name!r} must have {num_pairs} values of type F32")
    stored: tuple[float, ...] = struct.unpack(f"<{num_pairs}f", file.tensor_data(name))
    return tuple(values.number({name: factor}, name) for factor in stored)


def llama3_factors(scaling: RopeScaling, rope_theta: float, size: int) -> Iterable[float]:
    """Yield the divisor of each frequency: `factor` for long wavelengths, 1 for short ones, interpolated between."""
    low_wavelength = scaling.original_max_position / scaling.low_freq_factor
    high_wavelength = scaling.original_max_position / scaling.high_freq_factor
    for index in range(size // 2):
        wavelength = 2 * math.pi * rope_theta ** (2 * index / size)
        if wavelength < high_wavelength:
            yield 1.0
        elif wavelength > low_wavelength:
            yield scaling.factor
        else:
            turns = scaling.original_max_position / wavelength
            smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            yield 1 / ((1 - smooth) / scaling.factor + smooth)


def close(left: float, right: float) -> bool:
    """Return True if numbers that a file may have rounded are equal."""
    return math.isclose(left, right, rel_tol=1e-3)
