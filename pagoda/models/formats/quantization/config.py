"""Reads `quantization_config` of a checkpoint's config.json: the method of its quantized linears, and how it stores them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.quantization.scheme import Layout, Quantization, Scheme
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.formats.text_part import text_content

SUPPORTED = "AWQ (4 bits), GPTQ and compressed-tensors (4 or 8 bits), FP8"
GROUP_UNIT = 32
"""A group is a multiple of this number of inputs, or all of them."""
MAX_PATTERN_LENGTH, MAX_REPEATS = 200, 4
"""Bounds of a regular expression in a configuration, which keep the time of matching a name short."""
SEPARATE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files in which AutoGPTQ and AutoAWQ wrote what `quantization_config` says today, with the method of files that name none."""
_Content = Mapping[str, Any]


def read_quantization(directory: Path) -> Quantization | None:
    """Return how the linears of a checkpoint are quantized, or None for a checkpoint of floats. Raises ModelFormatError."""
    read = quantization_of(text_content(read_json(directory / "config.json")))
    for name, method in SEPARATE_FILES.items():
        if read is None and (directory / name).exists():
            content = read_json(directory / name)
            read = quantization_of(
                {"quantization_config": {**content, "quant_method": content.get("quant_method") or method}}
            )
    return read


def quantization_of(config: _Content) -> Quantization | None:
    """Return what a config.json says. Raises ModelFormatError for a method that is not supported."""
    content = config.get("quantization_config") or config.get("compression_config")
    if content is None:
        return None
    method = content.get("quant_method") if isinstance(content, dict) else None
    if method is None and isinstance(content, dict) and "config_groups" in content:
        method = "compressed-tensors"
    reader = _READERS.get(method) if isinstance(method, str) else None
    if reader is None:
        how = f"with {str(method)[:40]}" if method else "by an unknown method"
        raise ModelFormatError(
            f"weights quantized {how} (quantization_config) are not supported (supported: {SUPPORTED}); "
            "use the original model, or a GGUF file of it"
        )
    return reader(content)


def _read_awq(content: _Content) -> Quantization:
    version = str(content.get("version") or content.get("checkpoint_format") or content.get("format") or "gemm")
    if version.lower() != "gemm":
        _refuse("AWQ", f"version {version[:40]!r}", "gemm")
    bits = _bits("AWQ", content.get("bits", content.get("w_bit")), (4,))
    group_size = _group_size("AWQ", content.get("group_size", content.get("q_group_size")))
    scheme = Scheme(layout=Layout.AWQ, bits=bits, group_size=group_size, has_zeros=True)
    return Quantization(label=f"AWQ-INT{bits}", scheme=scheme)


def _read_gptq(content: _Content) -> Quantization:
    version = str(content.get("checkpoint_format") or content.get("format") or "gptq")
    if version not in ("gptq", "gptq_v2") or content.get("is_marlin_format"):
        _refuse("GPTQ", f"checkpoint_format {version[:40]!r}", "gptq and gptq_v2")
    if content.get("pack_dtype", "int32") != "int32":
        _refuse("GPTQ", f"pack_dtype {str(content['pack_dtype'])[:40]!r}", "int32")
    scheme = Scheme(layout=Layout.GPTQ, bits=4, has_zeros=True, zeros_minus_one=version == "gptq")
    scheme = _changed(scheme, content)
    overrides = content.get("dynamic") or {}
    if not isinstance(overrides, dict):
        raise ModelFormatError("dynamic in the model's quantization_config must be an object")
    schemes = tuple(
        (_pattern(key.removeprefix("+:")), _changed(scheme, changes))
        for key, changes in overrides.items()
        if isinstance(changes, dict) and not key.startswith("-:")
    )
    return Quantization(label=f"GPTQ-INT{scheme.bits}", scheme=scheme, schemes=schemes)


def _changed(scheme: Scheme, content: _Content) -> Scheme:
    """Return the scheme with what the object sets."""
    if "bits" in content:
        scheme = replace(scheme, bits=_bits("GPTQ", content["bits"], (4, 8)))
    if "group_size" in content:
        scheme = replace(scheme, group_size=_group_size("GPTQ", content["group_size"]))
    if "desc_act" in content:
        scheme = replace(scheme, needs_order=values.flag(content, "desc_act"))
    return scheme


def _read_compressed(content: _Content) -> Quantization:
    method, groups = "compressed-tensors", content.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        raise ModelFormatError("config_groups in the model's quantization_config must be an object of objects")
    if sparsity := content.get("sparsity_config"):
        sparse = sparsity.get("format", "dense") if isinstance(sparsity, dict) else sparsity
        if sparse != "dense":
            _refuse(method, f"sparsity format {str(sparse)[:40]!r}", "dense")
    if content.get("transform_config"):
        _refuse(method, "transform_config", "weights without transforms")
    read = [_compressed_scheme(group, str(group.get("format") or content.get("format"))) for group in groups.values()]
    label, default = read[0]
    schemes = []
    for group, (_, scheme) in zip(groups.values(), read, strict=True):
        for target in values.items(group, "targets", str):
            if target.startswith("re:"):
                schemes.append((_pattern(target.removeprefix("re:")), scheme))
            elif "." in target or target == "lm_head":
                schemes.append((re.escape(target) + "$", scheme))
            else:  # The name of a class, which all linears have.
                default = scheme
    return Quantization(label=label, scheme=default, schemes=tuple(schemes))


def _compressed_scheme(group: _Content, name: str) -> tuple[str, Scheme]:
    """Return the label and the scheme of one group of linears."""
    method, weights, inputs = "compressed-tensors", group.get("weights"), group.get("input_activations")
    if not isinstance(weights, dict):
        _refuse(method, "a group without weights", "groups with weights")
    strategy, kind = str(weights.get("strategy") or "tensor"), str(weights.get("type") or "int")
    has_zeros = not values.flag(weights, "symmetric", True)
    group_size = _group_size(method, weights.get("group_size")) if strategy == "group" else None
    if strategy not in ("group", "channel", "tensor", "block"):
        _refuse(method, f"strategy {strategy[:40]!r}", "group, channel, tensor and block")
    if name == "pack-quantized" and kind == "int" and strategy != "block":
        bits = _bits(method, weights.get("num_bits"), (4, 8))
        scheme = Scheme(layout=Layout.PACKED, bits=bits, group_size=group_size, has_zeros=has_zeros)
        return f"W{bits}A16", replace(scheme, needs_order=weights.get("actorder") in ("group", True))
    if name in ("int-quantized", "naive-quantized") and kind == "int" and strategy != "block":
        bits = _bits(method, weights.get("num_bits"), (8,))
        scheme = Scheme(layout=Layout.INT8, bits=bits, group_size=group_size, has_zeros=has_zeros)
        return f"W8A{8 if inputs else 16}", scheme
    if name in ("float-quantized", "naive-quantized") and kind == "float" and strategy != "group":
        _bits(method, weights.get("num_bits"), (8,))
        block = _block(weights.get("block_structure")) if strategy == "block" else None
        return "FP8", Scheme(layout=Layout.FLOAT8, bits=8, block=block)
    supported = "pack-quantized, int-quantized, naive-quantized and float-quantized of up to 8 bits"
    _refuse(method, f"format {name[:40]!r} with {kind[:40]} weights and strategy {strategy}", supported)


def _read_fp8(content: _Content) -> Quantization:
    if str(content.get("fmt") or "e4m3").lower() not in ("e4m3", "float8_e4m3fn"):
        _refuse("FP8", f"fmt {str(content.get('fmt'))[:40]!r}", "e4m3")
    if content.get("weight_block_size") is None:
        return Quantization(label="FP8", scheme=Scheme(layout=Layout.FLOAT8, bits=8))
    block = _block(content["weight_block_size"])
    scheme = Scheme(layout=Layout.FLOAT8, bits=8, block=block, scale_name="weight_scale_inv")
    return Quantization(label="FP8", scheme=scheme)


def _read_fbgemm_fp8(content: _Content) -> Quantization:
    return Quantization(label="FP8", scheme=Scheme(layout=Layout.FLOAT8, bits=8))


_READERS: Mapping[str, Callable[[_Content], Quantization]] = {
    "awq": _read_awq,
    "gptq": _read_gptq,
    "compressed-tensors": _read_compressed,
    "fp8": _read_fp8,
    "fbgemm_fp8": _read_fbgemm_fp8,
}


def _bits(method: str, bits: object, supported: tuple[int, ...]) -> int:
    if not isinstance(bits, int) or bits not in supported:
        _refuse(method, f"{str(bits)[:40]} bits", " or ".join(f"{each} bits" for each in supported))
    return bits


def _group_size(method: str, size: object) -> int | None:
    """Return the number of inputs in a group, or None for all inputs of an output, which files spell -1."""
    if size is None or size == -1:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0 or size % GROUP_UNIT:
        _refuse(method, f"group_size {str(size)[:40]}", f"multiples of {GROUP_UNIT}, and -1")
    return size


def _block(shape: object) -> tuple[int, int]:
    match shape:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case str() if re.fullmatch(r"\d{1,6}x\d{1,6}", shape):
            rows, columns = map(int, shape.split("x"))
            return rows or 1, columns or 1
    raise ModelFormatError(
        f"the block size in the model's quantization_config must be two positive whole numbers (got {str(shape)[:40]!r})"
    )


def _pattern(text: str) -> str:
    """Return a regular expression of the configuration. Raises ModelFormatError for one whose matching could take long."""
    is_simple = not re.search(r"\)[*+?{]", text) and len(re.findall(r"[*+?{]", text)) <= MAX_REPEATS
    try:
        re.compile(text)
    except re.error:
        is_simple = False
    if not is_simple or len(text) > MAX_PATTERN_LENGTH:
        raise ModelFormatError(
            f"the pattern {text[:80]!r} in the model's quantization_config is not supported: it is invalid, longer than "
            f"{MAX_PATTERN_LENGTH} characters, or repeats a group or more than {MAX_REPEATS} times"
        )
    return text


def _refuse(method: str, what: str, supported: str) -> NoReturn:
    raise ModelFormatError(
        f"weights quantized by {method} with {what} (quantization_config) are not supported (supported: {supported}); "
        "use the original model, or a GGUF file of it"
    )
