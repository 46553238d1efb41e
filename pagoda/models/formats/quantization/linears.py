"""Joins the tensors of a checkpoint that together are the weight of one quantized linear.

The tensors of a file say which linears are quantized: names such as `q_proj.qweight`, or a weight's type. The configuration says
how. So lists of ignored modules need no interpretation.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.quantization.config import read_quantization
from pagoda.models.formats.quantization.scheme import Layout, Quantization, Scheme
from pagoda.models.formats.safetensors_file import SafetensorsTensor, read_all_tensors

WORD_BITS = 32
WORDS = {"qweight": (Layout.AWQ, Layout.GPTQ), "weight_packed": (Layout.PACKED,)}
"""Layouts by the name of a tensor that only quantized linears have."""
WEIGHT_TYPES = {"I8": Layout.INT8, "F8_E4M3": Layout.FLOAT8}
"""Layouts by the type of a linear's `weight`."""
SCALE_TYPES = ("F16", "BF16", "F32")
OF_A_MIXTURE = re.compile(r"\.(experts\.\d+|shared_expert|shared_mlp)\.|\.(gate|shared_expert_gate)$")
"""Pattern of linears that have no bias in any family. Programs that quantize may add one of zeros, which is then a part."""
NOT_READ = frozenset(
    ("input_scale", "input_scale_ub", "input_zero_point", "output_scale", "k_scale", "v_scale", "q_scale", "prob_scale")
)
"""Names of tensors with which others round inputs, keys or values. Pagoda's own arithmetic rounds them as they come."""
Tensors = Mapping[str, SafetensorsTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLinear:
    scheme: Scheme
    shape: tuple[int, int]
    """Numbers of outputs and inputs."""
    parts: Mapping[str, str]
    """Names of the checkpoint's tensors by the last component of each: {"scales": "model.layers.0.mlp.up_proj.scales"}."""
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointTensors:
    """The tensors of a checkpoint, with each quantized linear as one."""

    plain: Tensors
    linears: Mapping[str, QuantizedLinear]
    """Quantized linears by the name that the weight would have as one tensor: "model.layers.0.mlp.up_proj.weight"."""
    quantization: Quantization | None

    @property
    def num_parameters(self) -> int:
        in_linears = sum(linear.shape[0] * linear.shape[1] for linear in self.linears.values())
        return in_linears + sum(tensor.num_parameters for tensor in self.plain.values())

    def only(self, is_wanted: Callable[[str], bool]) -> Self:
        """Return the tensors with the names for which the function returns True."""
        plain = {name: tensor for name, tensor in self.plain.items() if is_wanted(name)}
        linears = {name: linear for name, linear in self.linears.items() if is_wanted(name)}
        return replace(self, plain=plain, linears=linears)


def read_checkpoint_tensors(directory: Path) -> CheckpointTensors:
    """Return the tensors in the headers of a checkpoint's files. Raises ModelFormatError, with the directory."""
    try:
        quantization = read_quantization(directory)
        return join_tensors(read_all_tensors(directory), quantization)
    except _DamagedError as error:
        raise ModelFormatError(f"{directory}: {error}") from None


def join_tensors(tensors: Tensors, quantization: Quantization | None) -> CheckpointTensors:
    """Return the tensors with each quantized linear as one. Raises ModelFormatError if a part is missing or wrong."""
    if quantization is None:
        words = [name for name in tensors if name.endswith(tuple(f".{word}" for word in WORDS))]
        if words:
            raise _DamagedError(f"{words[0]!r} is quantized, but config.json has no quantization_config")
        return CheckpointTensors(plain=tensors, linears={}, quantization=None)
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        module, _, part = name.rpartition(".")
        modules[module][part] = name
    plain, linears = {}, {}
    for module, parts in modules.items():
        layouts = _layouts(parts, tensors)
        used = [name for part, name in parts.items() if part not in NOT_READ]
        if layouts:
            scheme = _scheme_of(module, quantization)
            if scheme.layout not in layouts:
                raise _DamagedError(f"{module!r} is not quantized as quantization_config says ({scheme.layout})")
            linear = _join(module, {part: tensors[name] for part, name in parts.items()}, scheme)
            linears[f"{module}.weight"] = linear
            used = [name for name in used if name not in linear.parts.values()]
        plain.update({name: tensors[name] for name in used})
    return CheckpointTensors(plain=plain, linears=linears, quantization=quantization)


class _DamagedError(ModelFormatError):
    """An error without the name of the checkpoint."""


def _layouts(parts: Mapping[str, str], tensors: Tensors) -> tuple[Layout, ...]:
    """Return the layouts that a module may have, none if it is not quantized."""
    for word, layouts in WORDS.items():
        if word in parts:
            return layouts
    weight = parts.get("weight")
    return (WEIGHT_TYPES[tensors[weight].dtype],) if weight and tensors[weight].dtype in WEIGHT_TYPES else ()


def _scheme_of(module: str, quantization: Quantization) -> Scheme:
    matching = (scheme for pattern, scheme in quantization.schemes if re.match(pattern, module))
    return next(matching, quantization.scheme)


class _Parts:
    """The tensors of one module, each taken once with its shape checked."""

    def __init__(self, module: str, tensors: Tensors) -> None:
        self._module, self._tensors = module, tensors
        self.taken: list[str] = []

    def matrix(self, part: str) -> tuple[int, int]:
        """Return the shape of a matrix. Raises ModelFormatError if there is none."""
        if part not in self._tensors:
            raise _DamagedError(f"the tensor '{self._module}.{part}' is missing")
        shape = self._tensors[part].shape
        if len(shape) != 2 or 0 in shape:
            raise _DamagedError(f"the tensor '{self._module}.{part}' must be a matrix (got {list(shape)})")
        return shape[0], shape[1]

    def take(
        self, part: str, shapes: Sequence[tuple[int, ...]], dtypes: tuple[str, ...], *, is_optional: bool = False
    ) -> None:
        """Take a tensor, which must have one of the shapes and one of the types. Raises ModelFormatError."""
        tensor = self._tensors.get(part)
        if tensor is None and is_optional:
            return
        if tensor is None:
            raise _DamagedError(f"the tensor '{self._module}.{part}' is missing")
        if tensor.dtype not in dtypes or tensor.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise _DamagedError(
                f"the tensor '{self._module}.{part}' must have the shape {wanted} and the type {' or '.join(dtypes)} "
                f"(got {list(tensor.shape)} and {tensor.dtype})"
            )
        self.taken.append(part)


def _join(module: str, tensors: Tensors, scheme: Scheme) -> QuantizedLinear:
    parts = _Parts(module, tensors)
    shape = _READERS[scheme.layout](parts, scheme)
    if OF_A_MIXTURE.search(module):
        parts.take("bias", [(shape[0],)], SCALE_TYPES, is_optional=True)
    num_bytes = sum(tensors[part].num_bytes for part in parts.taken)
    names = {part: f"{module}.{part}" for part in parts.taken}
    return QuantizedLinear(scheme=scheme, shape=shape, parts=names, num_bytes=num_bytes)


def _read_awq(parts: _Parts, scheme: Scheme) -> tuple[int, int]:
    num_in, words = parts.matrix("qweight")
    num_out, num_groups = words * WORD_BITS // scheme.bits, _num_groups(num_in, scheme)
    parts.take("qweight", [(num_in, words)], ("I32",))
    parts.take("qzeros", [(num_groups, words)], ("I32",))
    parts.take("scales", [(num_groups, num_out)], SCALE_TYPES)
    return num_out, num_in


def _read_gptq(parts: _Parts, scheme: Scheme) -> tuple[int, int]:
    words, num_out = parts.matrix("qweight")
    num_in = words * WORD_BITS // scheme.bits
    num_groups = _num_groups(num_in, scheme)
    parts.take("qweight", [(words, num_out)], ("I32",))
    parts.take("qzeros", [(num_groups, _num_words(num_out, scheme))], ("I32",))
    parts.take("scales", [(num_groups, num_out)], SCALE_TYPES)
    parts.take("g_idx", [(num_in,)], ("I32",), is_optional=not scheme.needs_order)
    return num_out, num_in


def _read_packed(parts: _Parts, scheme: Scheme) -> tuple[int, int]:
    num_out, words = parts.matrix("weight_packed")
    num_in = words * WORD_BITS // scheme.bits
    num_groups = _num_groups(num_in, scheme)
    parts.take("weight_packed", [(num_out, words)], ("I32",))
    _take_scales(parts, scheme, num_out, num_groups)
    zeros = [(_num_words(num_out, scheme), num_groups), (num_out, num_groups)]
    parts.take("weight_zero_point", zeros, ("I32", "I8"), is_optional=not scheme.has_zeros)
    parts.take("weight_shape", [(2,)], ("I64", "I32"))
    parts.take("weight_g_idx", [(num_in,)], ("I32",), is_optional=not scheme.needs_order)
    return num_out, num_in


def _read_int8(parts: _Parts, scheme: Scheme) -> tuple[int, int]:
    num_out, num_in = parts.matrix("weight")
    num_groups = _num_groups(num_in, scheme)
    parts.take("weight", [(num_out, num_in)], ("I8",))
    _take_scales(parts, scheme, num_out, num_groups)
    zeros = [(num_out, num_groups), (1,)]
    parts.take("weight_zero_point", zeros, ("I8",), is_optional=not scheme.has_zeros)
    return num_out, num_in


def _read_float8(parts: _Parts, scheme: Scheme) -> tuple[int, int]:
    num_out, num_in = parts.matrix("weight")
    parts.take("weight", [(num_out, num_in)], ("F8_E4M3",))
    if scheme.block is None:
        parts.take(scheme.scale_name, [(num_out, 1), (1, 1), (1,), ()], SCALE_TYPES)
    else:
        rows, columns = scheme.block
        parts.take(scheme.scale_name, [(-(-num_out // rows), -(-num_in // columns))], SCALE_TYPES)
    return num_out, num_in


def _take_scales(parts: _Parts, scheme: Scheme, num_out: int, num_groups: int) -> None:
    shapes: list[tuple[int, ...]] = [(num_out, num_groups)]
    if scheme.group_size is None:
        shapes.append((1,))
    parts.take("weight_scale", shapes, SCALE_TYPES)


_READERS = {
    Layout.AWQ: _read_awq,
    Layout.GPTQ: _read_gptq,
    Layout.PACKED: _read_packed,
    Layout.INT8: _read_int8,
    Layout.FLOAT8: _read_float8,
}


def _num_groups(num_in: int, scheme: Scheme) -> int:
    return 1 if scheme.group_size is None else -(-num_in // scheme.group_size)


def _num_words(num_fields: int, scheme: Scheme) -> int:
    return -(-num_fields * scheme.bits // WORD_BITS)
