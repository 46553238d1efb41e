"""The ways in which checkpoints of Hugging Face store the weights of quantized linears."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Layout(StrEnum):
    """The tensors that a quantized linear consists of, and the order of their bits. linears.py lists them."""

    AWQ = "AWQ"
    """AutoAWQ's "gemm": eight outputs in a word, interleaved."""
    GPTQ = "GPTQ"
    """Eight or four inputs in a word; zeros with the outputs in a word."""
    PACKED = "pack-quantized"
    """Inputs in a word, of compressed-tensors."""
    INT8 = "int-quantized"
    """A byte for each weight, of compressed-tensors."""
    FLOAT8 = "FP8"
    """A float of eight bits (E4M3) for each weight, with a scale for the matrix, for each row or for each block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """The way in which one linear is stored. A weight is scale * (integer - zero), or scale * float."""

    layout: Layout
    bits: int
    group_size: int | None = None
    """Number of inputs that share a scale. None for all inputs of an output, or of the matrix."""
    has_zeros: bool = False
    """True if each scale has a zero. Without, the zero is the middle of the integers."""
    zeros_minus_one: bool = False
    """True if zeros are stored minus one, as in GPTQ's first version."""
    needs_order: bool = False
    """True if the checkpoint must name each input's group."""
    block: tuple[int, int] | None = None
    """Outputs and inputs that share a scale of FLOAT8. None if each output or the matrix has one."""
    scale_name: str = "weight_scale"
    """Name of FLOAT8's scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The content of `quantization_config`. Which linears are quantized is what the tensors say."""

    label: str
    """Name for users, such as "AWQ-INT4"."""
    scheme: Scheme
    """The scheme of linears that no pattern matches."""
    schemes: Sequence[tuple[str, Scheme]] = field(default=())
    """Schemes of the linears whose names a regular expression matches at their beginning. The first that matches counts."""
